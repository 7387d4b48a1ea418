"""However a run ends, the resumed one comes to where it would have come, and makes nothing again that was complete."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("program.py")
LIMIT_S = 1200  # a hang ends here


def ends(model: str, out: Path, world: int, resume: int, action: str, count: int) -> list[dict[str, Any]]:
    """Run the program; what became of each run that was ended and resumed."""
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), model, str(out), str(world), str(resume), action, str(count), "0"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-2000:]
    result = json.loads((out / "result.json").read_text())
    assert result["step"] == 6
    found = result["ended"]
    assert len(found) == count
    for run in found:
        assert run["step"] == 6, run
        assert run["again"] == 0, run
    # They are spread over the whole run, or it would not say much.
    assert len({run["event"] for run in found}) > count // 2
    assert max(run["stored"][1] for run in found) > 40
    return found


@pytest.mark.parametrize(
    ("world", "resume", "count", "tolerance"), [(1, 1, 9, 0.0), (2, 2, 9, 1e-5), (2, 1, 3, 1e-5), (1, 2, 3, 1e-5)]
)
def test_kill_9(random_model: str, tmp_path: Path, world: int, resume: int, count: int, tolerance: float):
    found = ends(random_model, tmp_path / "runs", world, resume, "kill", count)
    kinds = {run["kind"] for run in found}
    assert len(kinds) == min(count, 9), kinds  # sampling, verifying, judging, training and all parts of checkpointing
    for run in found:
        assert run["codes"][run["rank"]] == -signal.SIGKILL
        assert run["gap"] <= tolerance, run
        assert run["eval"], run


@pytest.mark.parametrize(("world", "resume", "count", "tolerance"), [(1, 1, 7, 0.0), (2, 1, 3, 1e-5)])
def test_kill_9_while_rounds_are_refilled(
    random_model: str, tmp_path: Path, world: int, resume: int, count: int, tolerance: float
):
    """Half of the problems are all wrong. No reward term is called again for what it was called for and stored."""
    found = ends(random_model, tmp_path / "runs", world, resume, "kill-dynamic", count)
    with (tmp_path / "runs" / "whole" / "run" / "metrics.csv").open(newline="") as file:
        refills = [float(row["dynamic/refills"]) for row in csv.DictReader(file) if row["dynamic/refills"]]
    assert len(refills) == 3
    assert sum(refills) >= 2
    for run in found:
        assert run["codes"][run["rank"]] == -signal.SIGKILL
        assert run["gap"] <= tolerance, run
        assert run["eval"], run


@pytest.mark.parametrize(
    ("world", "action", "count", "code"),
    [(1, "term", 9, 143), (2, "term", 9, 143), (1, "int", 4, 1), (2, "int", 3, 1), (1, "int_twice", 4, 1)],
)
def test_signals(random_model: str, tmp_path: Path, world: int, action: str, count: int, code: int):
    """SIGTERM at every kind of moment; SIGINT, which takes the same way, at some."""
    for run in ends(random_model, tmp_path / "runs", world, world, action, count):
        assert run["codes"][run["rank"]] == code, run
        assert all(run["codes"])  # the other process does not go on alone
        name = "SIGTERM" if action == "term" else "SIGINT"
        assert (
            f"{name}: stopping at the next safe point and saving a checkpoint; repeat to stop immediately"
            in run["said"]
        )
        assert ("resume with --ckpt_path" in run["said"]) == run["left"], run  # a whole checkpoint may not be there yet
        assert run["gap"] <= (0.0 if world == 1 else 1e-5), run


@pytest.mark.parametrize("world", [1, 2])
def test_full_disk(random_model: str, tmp_path: Path, world: int):
    """While checkpoints are written; the one before is still there, whole."""
    found = ends(random_model, tmp_path / "runs", world, world, "full", 3)
    for run in found:
        assert all(code == 1 for code in run["codes"])
        assert "StorageError: the checkpoint " in run["said"]
        assert "could not be written (OSError: File too large). Free space or make the folder writable; " in run["said"]
        assert run["gap"] <= (0.0 if world == 1 else 1e-5), run
    assert any("; the last whole one is " in run["said"] for run in found)
