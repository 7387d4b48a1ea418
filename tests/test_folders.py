"""The folders of the tests, which pytest puts on the search path, are nobody's package."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

TESTS = Path(__file__).parent


def test_no_folder_of_tests_passes_for_an_optional_package():
    """A folder on the search path is importable without an ``__init__.py``. TRL took ``tests/engines/vllm`` for a vLLM
    without a version and failed, but only once a test of ``tests/engines`` had been collected in the same process."""
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    packages = {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in wanted}
    assert "vllm" in packages
    folders = {path.name for path in TESTS.rglob("*") if path.is_dir()}
    assert folders.isdisjoint(packages)
