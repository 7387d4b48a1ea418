"""What CONTRIBUTING.md, the workflows and the citation name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import lit_tpgrpo

ROOT = Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_files_that_contributing_names_exist():
    names = set(re.findall(r"`((?:[\w.]+/)+(?:[\w.]+\.(?:py|yaml|yml|md))?)`", CONTRIBUTING))
    assert len(names) > 30
    inside = ("", "lit_tpgrpo/")  # the glossary leaves the package's name out
    missing = [name for name in names if not any((ROOT / prefix / name).exists() for prefix in inside)]
    assert missing == ["mismatch/"]  # metrics


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "README.md", ".pre-commit-config.yaml", *(str(w.relative_to(ROOT)) for w in WORKFLOWS)]
)
def test_make_targets_that_are_named_exist(page: str):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?:^|`|run: )make ((?!PYTHON)[a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= targets


def test_workflows_run_what_a_developer_runs():
    for workflow in WORKFLOWS:
        jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
        commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
        assert {c.split()[0] for c in commands} <= {"make", "test", "gh"}
        assert any(c.startswith("make") for c in commands)


def test_the_citation_is_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lit_tpgrpo.__version__


def test_every_example_to_copy_is_in_the_table():
    parts = {
        f"examples/parts/{path.name}"
        for path in (ROOT / "examples" / "parts").iterdir()
        if path.suffix in (".py", ".yaml")
    }
    named = set(re.findall(r"`(examples/parts/[\w.]+)`", CONTRIBUTING))
    assert named == parts - {"examples/parts/__init__.py"}
