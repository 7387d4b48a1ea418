"""Lower floors never import upper ones, and heavy libraries stay out of what worker processes import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "lit_tpgrpo.functional": 0,
    "lit_tpgrpo.errors": 0,
    "lit_tpgrpo.checkout": 0,
    "lit_tpgrpo.lazy_imports": 0,
    "lit_tpgrpo.redaction": 0,
    "lit_tpgrpo.checksums": 0,
    "lit_tpgrpo.seeds": 0,
    "lit_tpgrpo.signals": 0,
    "lit_tpgrpo.token_arrays": 1,
    "lit_tpgrpo.yaml_files": 0,
    "lit_tpgrpo.api_keys": 1,
    "lit_tpgrpo.arguments": 1,
    "lit_tpgrpo.arrivals": 1,
    "lit_tpgrpo.async_bridge": 1,
    "lit_tpgrpo.background": 0,
    "lit_tpgrpo.bounded_http": 1,
    "lit_tpgrpo.chat_template": 1,
    "lit_tpgrpo.distributed": 1,
    "lit_tpgrpo.evidence": 1,
    "lit_tpgrpo.protocol_check": 1,
    "lit_tpgrpo.fingerprint": 1,
    "lit_tpgrpo.jsonl": 1,
    "lit_tpgrpo.notices": 1,
    "lit_tpgrpo.pretrained": 1,
    "lit_tpgrpo.records": 1,
    "lit_tpgrpo.user_errors": 1,
    "lit_tpgrpo.credit": 2,
    "lit_tpgrpo.losses": 2,
    "lit_tpgrpo.metrics": 2,
    "lit_tpgrpo.rewards": 2,
    "lit_tpgrpo.text": 2,
    "lit_tpgrpo.chat": 3,
    "lit_tpgrpo.engines": 3,
    "lit_tpgrpo.evaluation": 4,
    "lit_tpgrpo.judges": 3,
    "lit_tpgrpo.verify": 3,
    "lit_tpgrpo.loggers": 4,
    "lit_tpgrpo.rollout": 4,
    "lit_tpgrpo.search": 4,
    "lit_tpgrpo.training": 5,
    "lit_tpgrpo.report": 5,
    "lit_tpgrpo.callbacks": 6,
    "lit_tpgrpo.datamodules": 6,
    "lit_tpgrpo.module": 6,
    "lit_tpgrpo.audit": 7,
    "lit_tpgrpo.export": 7,
    "lit_tpgrpo.serve": 7,
    "lit_tpgrpo.rounds": 7,
    "lit_tpgrpo.cli": 8,
    "train": 8,
}
# These never import one another, though they stand on the same floor.
PARTIES = ("lit_tpgrpo.module", "lit_tpgrpo.callbacks", "lit_tpgrpo.datamodules")


def room(module: str) -> str | None:
    """The longest floor name that the module lies in."""
    names = [name for name in FLOORS if module == name or module.startswith(name + ".")]
    return max(names, key=len, default=None)


def project_files() -> list[tuple[str, Path]]:
    files = [("train", ROOT / "train.py")]
    for folder, package in (("lit_tpgrpo", "lit_tpgrpo"), ("callbacks", "lit_tpgrpo.callbacks")):
        files += named_files(ROOT / folder, package)
    return files + named_files(ROOT / "datamodules", "lit_tpgrpo.datamodules")


def named_files(folder: Path, package: str) -> list[tuple[str, Path]]:
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if package == "lit_tpgrpo" and parts[0] in ("callbacks", "datamodules"):
            continue  # links to the top-level folders
        found.append((".".join((package, *(p for p in parts if p != "__init__"))), path))
    return found


def imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def violations(module: str, imported: list[str]) -> list[str]:
    own = room(module)
    bad = []
    for name in imported:
        other = room(name)
        if own is None or other is None or other == own:
            continue
        if FLOORS[other] > FLOORS[own] or (own in PARTIES and other in PARTIES):
            bad.append(f"{module} imports {name}")
    return bad


def test_lower_floors_never_import_upper_ones():
    files = project_files()
    assert len(files) > 30
    assert [line for module, path in files for line in violations(module, imports(path))] == []


def test_every_file_has_a_floor():
    assert [m for m, _ in project_files() if room(m) is None and m != "lit_tpgrpo"] == []


def test_a_violation_is_seen():
    assert violations("lit_tpgrpo.text.steps", ["lit_tpgrpo.judges.rule"]) != []
    assert violations("lit_tpgrpo.callbacks.samples", ["lit_tpgrpo.datamodules.rollout"]) != []
    assert violations("lit_tpgrpo.callbacks.samples", ["lit_tpgrpo.rollout.hooks", "torch"]) == []


def test_functional_imports_nothing_of_ours():
    for module, path in named_files(ROOT / "lit_tpgrpo" / "functional", "lit_tpgrpo.functional"):
        ours = [n for n in imports(path) if n.startswith("lit_tpgrpo") and not n.startswith("lit_tpgrpo.functional")]
        assert ours == [], module


@pytest.mark.parametrize(
    "module",
    [
        "lit_tpgrpo",
        "lit_tpgrpo.verify.worker",
        "lit_tpgrpo.verify.code.child",
        "lit_tpgrpo.judges.rule_worker",
        "lit_tpgrpo.text.answers",
    ],
)
def test_what_workers_import_is_light(module: str):
    code = f"import sys, {module}; print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=1200
    )
    assert out.stdout.strip() == "[]"


def test_processes_are_started_in_two_places():
    """Where their environment and their limits are chosen."""
    starters = ("subprocess", "multiprocessing", "concurrent.futures.process", "pty")
    found = [m for m, path in project_files() if any(n.startswith(starters) for n in imports(path))]
    assert found == ["lit_tpgrpo.verify.code.process", "lit_tpgrpo.verify.worker_process"]
