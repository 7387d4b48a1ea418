"""However a run ends, the resumed one comes to where it would have come, and makes nothing again that was complete."""

from __future__ import annotations

import csv
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("program.py")
LIMIT_S = 3000  # a hang ends here
# By the number of processes that begin: the cases, which share a start of the program and, by their settings, an
# uninterrupted run. On one process SIGKILL comes at every kind of moment of each schedule and of refilled rounds, SIGTERM at
# every kind of serial rounds; other cases have the kinds that they name, or as many as the number says. On two processes
# SIGKILL comes where most is half done: among the solutions that are sampled, between gradients and weights, when half a
# checkpoint is written, and in pipelined rounds when some of the late scores are stored.
SEEDS = {"one": 0, "two": 3}
SETS: dict[str, tuple[int, tuple[str, ...]]] = {
    "one": (
        1,
        (
            "kill:1:all",
            "kill:2:sampled+train+half saved",
            *("term:1:all", "int:1:sampled+train", "int_twice:1:3", "full:1:3"),
            "kill-dynamic:1:all",
            "kill-evidence:1:sampled+train+half saved",
            *("kill-streamed:1:all", "term-streamed:1:3"),
            *("kill-pipelined:1:all", "term-pipelined:1:3"),
            *("kill-ahead:1:all", "term-ahead:1:4"),
        ),
    ),
    "two": (
        2,
        (
            "kill:2:sampled+judge+train+half saved",
            "kill:1:sampled+train+half saved",
            *("term:2:4", "int:2:2", "full:2:3"),
            "kill-dynamic:1:sampled+train+half saved",
            "kill-pipelined:2:sampled+train+half saved+late scored",
            "kill-ahead:2:sampled+train+half saved",
        ),
    ),
}
# What "all" has to be: a kind that the program has and these lack fails, as one does that it does not reach any more.
SERIAL = {
    *("sample", "sampled", "verify", "judge", "train", "trained", "evaluate"),
    *("save", "half saved", "saved"),
}
SCORED = {"score", "scored"}
KINDS = {
    "kill": SERIAL,
    "term": SERIAL,
    "kill-dynamic": SERIAL | {"reward"},
    "kill-streamed": SERIAL | SCORED,
    "kill-pipelined": SERIAL | SCORED | {"late score", "late scored", "weights without a name"},
    "kill-ahead": SERIAL | SCORED | {"load", "weights without a name"},
}


def cases(*actions: str) -> pytest.MarkDecorator:
    """Parameters: the cases of these actions, each set of them in one worker, which starts their program once."""
    return pytest.mark.parametrize(
        ("name", "case"),
        [
            pytest.param(name, case, marks=[pytest.mark.slow, pytest.mark.xdist_group(f"ends {name}")])
            for name, (_, of_set) in SETS.items()
            for case in of_set
            if case.partition(":")[0] in actions
        ],
    )


@pytest.fixture(scope="module")
def finished(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the program's results for a set of cases."""

    @functools.cache
    def run(name: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        world, of_set = SETS[name]
        out = tmp_path_factory.mktemp("ends") / "runs"
        ended = subprocess.run(
            [sys.executable, str(PROGRAM), random_model, str(out), str(world), str(SEEDS[name]), *of_set],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        return out, ended

    def folder(name: str) -> Path:
        out, ended = run(name)
        assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-2000:]
        return out

    return folder


def ends(folder: Path, case: str) -> list[dict[str, Any]]:
    """What became of each run of a case that was ended and resumed."""
    failed = folder / case / "failed.txt"
    assert not failed.exists(), failed.read_text()
    result = json.loads((folder / case / "result.json").read_text())
    assert result["step"] == 6
    found = result["ended"]
    action, resume, moments = case.split(":")
    kinds = [kind for run in found for kind in run["acted"]]  # written where it happened
    if moments.isdigit():
        assert len(kinds) == len(found) == int(moments)
    else:
        assert sorted(kinds) == sorted(KINDS[action] if moments == "all" else moments.split("+"))
    exact = len(found[0]["codes"]) == 1 == int(resume)  # one process began and one resumed
    for run in found:
        assert len(run["acted"]) == 1, run
        assert run["step"] == 6, run
        assert run["again"] == 0, run
        assert run["gap"] <= (0.0 if exact else 1e-5), run
    # They are spread over the whole run, or it would not say much.
    assert len({tuple(run["event"]) for run in found}) > len(found) // 2
    assert max(run["stored"][1] for run in found) > 40
    return found


@cases("kill")
def test_kill_9(finished: Callable[[str], Path], name: str, case: str):
    for run in ends(finished(name), case):
        assert run["codes"][run["rank"]] == -signal.SIGKILL
        assert run["eval"], run


@cases("kill-dynamic")
def test_kill_9_while_rounds_are_refilled(finished: Callable[[str], Path], name: str, case: str):
    """Half of the problems are all wrong. No reward term is called again for what it was called for and stored."""
    found = ends(finished(name), case)
    with (finished(name) / "whole-dynamic" / "run" / "metrics.csv").open(newline="") as file:
        refills = [float(row["dynamic/refills"]) for row in csv.DictReader(file) if row["dynamic/refills"]]
    assert len(refills) == 3
    assert sum(refills) >= 2
    for run in found:
        assert run["codes"][run["rank"]] == -signal.SIGKILL
        assert run["eval"], run


@cases("kill-evidence")
def test_kill_9_while_solutions_are_continued(finished: Callable[[str], Path], name: str, case: str):
    """While solutions and continuations are sampled, in a step, in a checkpoint. No stored prefix is continued again."""
    for run in ends(finished(name), case):
        assert run["codes"] == [-signal.SIGKILL]
        assert run["eval"], run


@cases("kill-streamed")
def test_kill_9_while_a_streamed_round_is_made(finished: Callable[[str], Path], name: str, case: str):
    """Its threads leave whole verdicts, and none is asked for again. Scores of which some are stored are completed."""
    for run in ends(finished(name), case):
        assert run["codes"] == [-signal.SIGKILL]
        assert run["eval"], run


@cases("kill-pipelined")
def test_kill_9_while_a_round_is_sampled_and_trained_on(finished: Callable[[str], Path], name: str, case: str):
    """In any thread, and while older weights take the trainer's place to score what comes late.

    The rest is sampled and scored with the weights that began the round, not with the checkpoint's.
    """
    for run in ends(finished(name), case):
        assert run["codes"][run["rank"]] == -signal.SIGKILL
        assert run["eval"], run


@cases("kill-ahead")
def test_kill_9_while_a_round_is_sampled_and_the_one_before_trained_on(
    finished: Callable[[str], Path], name: str, case: str
):
    """In either thread, and when the weights that sample a round are half stored. The round goes on with these."""
    for run in ends(finished(name), case):
        assert run["codes"][run["rank"]] == -signal.SIGKILL
        assert run["eval"], run


@cases("term", "term-streamed", "term-pipelined", "term-ahead", "int", "int_twice")
def test_signals(finished: Callable[[str], Path], name: str, case: str):
    """SIGTERM at every kind of moment of serial rounds and at some of others; SIGINT, which takes the same way, at some."""
    sent, code = ("SIGTERM", 143) if case.startswith("term") else ("SIGINT", 1)
    for run in ends(finished(name), case):
        assert run["codes"][run["rank"]] == code, run
        assert all(run["codes"])  # the other process does not go on alone
        assert (
            f"{sent}: stopping at the next safe point and saving a checkpoint; repeat to stop immediately"
            in run["said"]
        )
        assert ("resume with --ckpt_path" in run["said"]) == run["left"], run  # a whole checkpoint may not be there yet


@cases("full")
def test_full_disk(finished: Callable[[str], Path], name: str, case: str):
    """While checkpoints are written; the one before is still there, whole."""
    found = ends(finished(name), case)
    for run in found:
        assert all(code == 1 for code in run["codes"])
        assert "StorageError: the checkpoint " in run["said"]
        assert "could not be written (OSError: File too large). Free space or make the folder writable; " in run["said"]
    assert any("; the last whole one is " in run["said"] for run in found)
