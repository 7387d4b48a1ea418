"""What the code and its tests import comes with the requirements that a newcomer installs.

A package that merely happens to be there (brought by vLLM, say) breaks the suite on a machine that lacks it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
WITH_VLLM = {"vllm"}  # imported in lit_tpgrpo/engines/vllm alone, when it is used
LOGGERS = {"mlflow", "trackio", "wandb"}  # imported when the user has chosen such a logger
ONLY_BENCHMARKED = {
    "aiohttp",
    "flash_attn",
    "liger_kernel",
    "matplotlib",
    "trl",
    "vllm",
}  # without them a benchmark says so


def required(file: str) -> Iterator[Requirement]:
    for line in (ROOT / file).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from required(line.removeprefix("-r ").strip())
        elif line:
            yield Requirement(line)


def closure(wanted: Iterator[Requirement]) -> set[str]:
    """Names of all distributions that installing the wanted ones brings."""
    seen: set[tuple[str, str]] = set()
    queue = [(canonical(r.name), extra) for r in wanted for extra in ("", *r.extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # another platform's
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                queue += [(canonical(need.name), e) for e in ("", *need.extras)]
    return {name for name, _ in seen}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports of a file, wherever they are in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def strangers(files: list[Path], brought: set[str], allowed: set[str]) -> dict[str, set[str]]:
    """Imports that neither the standard library, the repository nor ``brought`` distributions provide, by file."""
    ours = {"lit_tpgrpo", "tests", "benchmarks", "examples", "train"} | {p.stem for p in ROOT.glob("tests/**/*.py")}
    providers = importlib.metadata.packages_distributions()
    known = set(sys.stdlib_module_names) | ours | allowed
    missing = {
        str(path.relative_to(ROOT)): {
            name for name in imported(path) - known if not any(canonical(d) in brought for d in providers.get(name, []))
        }
        for path in files
    }
    return {path: names for path, names in missing.items() if names}


@pytest.mark.parametrize(
    ("folders", "requirements", "allowed"),
    [
        (["lit_tpgrpo", "callbacks", "datamodules", "examples"], "requirements.txt", WITH_VLLM | LOGGERS),
        (["tests"], "requirements-dev.txt", {"vllm"} | LOGGERS),
        (["benchmarks"], "requirements.txt", ONLY_BENCHMARKED),
    ],
)
@pytest.mark.slow
def test_imports_come_with_the_requirements(folders: list[str], requirements: str, allowed: set[str]):
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) >= 3
    assert strangers(files, closure(required(requirements)), allowed) == {}


def test_only_vllm_files_import_what_vllm_brings():
    engine = ROOT / "lit_tpgrpo" / "engines" / "vllm"
    others = [p for p in (ROOT / "lit_tpgrpo").rglob("*.py") if engine not in p.parents]
    assert [p.name for p in others if imported(p) & WITH_VLLM] == ["serve.py"]  # a server's command


def test_a_stranger_is_seen(tmp_path: Path):
    brought = closure(required("requirements-dev.txt"))
    assert {"torch", "openai", "pytest", "trl"} <= brought
    assert "requests" not in closure(iter([Requirement("pytest")]))
    assert strangers([ROOT / "tests" / "test_wheel.py"], set(), set()) == {"tests/test_wheel.py": {"pytest"}}
