"""What a config's credit is, so that two configs can be seen to have the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def credit_of(config: Path) -> Any:
    """The class and arguments that a config names, None for none; a class under either of its paths."""
    named = yaml.safe_load(config.read_text()).get("data", {}).get("init_args", {}).get("credit")
    return named and {**named, "class_path": named["class_path"].rpartition(".")[2]}
