"""The examples in docstrings give what they say, wherever there are some."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def modules_with_examples() -> list[str]:
    """Names of the modules of the package whose source has examples; the two linked folders are read where they are."""
    files = [path for path in (ROOT / "lit_tpgrpo").rglob("*.py") if "\n    >>> " in path.read_text(encoding="utf-8")]
    for folder in ("callbacks", "datamodules"):
        files += [path for path in (ROOT / folder).rglob("*.py") if "\n    >>> " in path.read_text(encoding="utf-8")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    return sorted({name if name.startswith("lit_tpgrpo.") else f"lit_tpgrpo.{name}" for name in names})


MODULES = modules_with_examples()


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_pure_functions_have_examples():
    rooms = {name.split(".")[1] for name in MODULES}
    assert {"functional", "credit", "text", "metrics"} <= rooms
    assert len(MODULES) >= 12
