"""The names that packages publish: each is imported when it is asked for, and is the object of the module that defines it."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lit_tpgrpo

ROOT = Path(__file__).parent.parent
LAZY = {
    "lit_tpgrpo": ROOT / "lit_tpgrpo" / "__init__.py",
    "lit_tpgrpo.datamodules.arithmetic": ROOT / "datamodules" / "arithmetic" / "__init__.py",
} | {
    f"lit_tpgrpo.{path.parent.name}": path
    for path in sorted((ROOT / "lit_tpgrpo").glob("*/__init__.py"))
    if "lazy_attributes(" in path.read_text(encoding="utf-8")
}


def names_for_type_checkers(path: Path) -> dict[str, str]:
    """Name to module, as imported in the file's ``if TYPE_CHECKING`` block."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    imported = [n for n in block.body if isinstance(n, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imported for alias in node.names}


def test_the_packages_are_found():
    assert {"lit_tpgrpo", "lit_tpgrpo.credit", "lit_tpgrpo.judges", "lit_tpgrpo.verify"} <= set(LAZY)


@pytest.mark.parametrize("package", LAZY)
def test_a_published_name_is_the_object_of_its_module(package: str):
    module = importlib.import_module(package)
    seen = names_for_type_checkers(LAZY[package])
    assert sorted(module.__all__) == sorted(seen)
    assert set(module.__all__) <= set(dir(module))
    for name, home in seen.items():
        value = getattr(module, name)
        assert value is getattr(importlib.import_module(home), name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value is getattr(sys.modules[value.__module__], name)


@pytest.mark.parametrize("package", LAZY)
def test_what_is_no_published_name_is_refused(package: str):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'no_such_name'$"):
        _ = module.no_such_name
    assert not hasattr(module, "__wrapped__")


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(AttributeError, match=r"no attribute 'ThougtCredit'; did you mean ThoughtCredit\?"):
        _ = lit_tpgrpo.ThougtCredit  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match=r"did you mean TPGRPOModule\?"):
        _ = lit_tpgrpo.TpGrpoModule  # pyright: ignore[reportAttributeAccessIssue]


def test_names_of_the_readme_are_published():
    assert {
        *("TPGRPOModule", "MathRolloutDataModule", "ThoughtCredit", "RuleJudge", "GenerativeJudge", "HFEngine", "LoRA"),
        *("VLLMEngine", "VLLMServer", "SamplingParams", "OpenAIChat", "LocalChat", "MathVerifier", "FileProblems"),
    } <= set(lit_tpgrpo.__all__)


def test_asking_for_a_light_name_loads_neither_torch_nor_lightning():
    code = (
        "import sys, lit_tpgrpo, lit_tpgrpo.verify, lit_tpgrpo.text, lit_tpgrpo.judges, lit_tpgrpo.engines\n"
        "dir(lit_tpgrpo), lit_tpgrpo.Outcome, lit_tpgrpo.text.segment_steps\n"
        "print([m for m in ('torch', 'lightning', 'transformers', 'openai') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=1200
    )
    assert done.stdout.strip() == "[]"


def test_no_two_classes_share_a_name():
    homes: dict[str, list[str]] = {}
    for folder in ("lit_tpgrpo", "callbacks", "datamodules", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert "MathRolloutDataModule" in homes
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


@pytest.mark.parametrize(("part", "inherited"), [("Judge", "name metrics close"), ("Engine", "sleep wake close")])
def test_a_part_inherits_what_it_rarely_needs(part: str, inherited: str):
    protocol = getattr(lit_tpgrpo, part)
    given = type("Mine", (protocol,), {})()
    results = {"name": "Mine", "metrics": {}}
    for name in inherited.split():
        value = getattr(given, name)
        assert (value() if callable(value) else value) == results.get(name)
