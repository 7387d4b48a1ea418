"""README and docs: links, configs, commands and names that they give are there."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import lit_tpgrpo

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "log.md")]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", [*NAMES, "CONTRIBUTING.md", "SECURITY.md", "configs/README.md"])
def test_links_lead_somewhere(page: str):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in (ROOT / ".github").rglob("*.*") if p.is_file())
)
def test_pages_and_sections_that_github_templates_name_exist(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in re.findall(r"[\w/-]+\.md\b", text) if not (ROOT / name).is_file()] == []
    for name, section in re.findall(r'(README|[\w/-]+(?=\.md))(?:\.md)?, "([^"]+)"', text):
        assert f"# {section}\n" in (ROOT / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", NAMES)
def test_what_commands_name_exists(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [c for c in re.findall(r"--config (configs/\S+)", text) if not (ROOT / c).is_file()] == []
    modules = set(re.findall(r"python -m ((?:lit_tpgrpo|examples|benchmarks)[\w.]*)", text))
    assert [m for m in modules if importlib.util.find_spec(m) is None] == []


@pytest.mark.parametrize("page", NAMES)
def test_names_that_are_imported_or_given_as_class_paths_are_published(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    imports = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    named = {alias.name for node in imports if node.module == "lit_tpgrpo" for alias in node.names}
    named |= set(re.findall(r"lit_tpgrpo\.([A-Z]\w+)", text))
    assert named <= set(lit_tpgrpo.__all__)


def test_the_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 1300
    assert [name for name in NAMES if name.startswith("docs/") and f"({name})" not in text] == []


def test_parts_in_the_table_are_public_names():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = text.split("## Parts")[1].split("\n\n")[1].splitlines()[2:]
    assert len(rows) > 5
    named = {name for row in rows for name in re.findall(r"`([A-Z]\w+)`", row)}
    assert len(named) > 25
    assert named <= set(lit_tpgrpo.__all__)
