"""``python -m lit_tpgrpo.rounds show``: what a person reads of a stored round, and how it ends without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_tpgrpo.records import Outcome, Problem, Solution, Step, StepLabel, StopReason, Verdict
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.rounds import main

ROOT = Path(__file__).parent.parent
TEXT = "One.\n\nTwo.\x1b[2J"
VERDICT = Verdict(
    (Step(0, 6, 0, 2), Step(6, 14, 2, 4, is_answer=True)), (StepLabel.CORRECT, StepLabel.INCORRECT), "of two"
)


def solution(sample: int, stop: StopReason = StopReason.EOS, tokens: int = 4) -> Solution:
    ids = range(tokens)
    return Solution("p/1", sample, (1, 2), tuple(ids), (-0.5,) * tokens, stop, 7, TEXT, tuple(ids))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two rounds; the newer one has one group of two solutions, one of them judged, and lacks another group."""
    store = RoundStore(tmp_path / "rounds")
    store.open(0, {"seed": 3})
    file = store.open(1, {"seed": 3, "policy_version": 7, "group_size": 2, "problems": ["p/1", "p/2"]})
    problem = Problem("p/1", "What is 1 + 1?\x07", "2")
    file.add_solutions({4: (problem, (solution(0), solution(1, StopReason.LENGTH, 6)))})
    file.add_verdict(4, problem, solution(0), Outcome.CORRECT, "2", VERDICT)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *args: object) -> list[str]:
    main(["show", *map(str, args)])
    return capsys.readouterr().out.splitlines()


def test_the_newest_round_of_a_run_with_its_counts(run: Path, capsys):
    lines = shown(capsys, run)
    assert lines == shown(capsys, run / "rounds") == shown(capsys, run / "rounds" / "round_000001")
    folder = run / "rounds" / "round_000001"
    size = sum(path.stat().st_size for path in folder.glob("solutions.*"))
    assert lines == [
        str(folder),
        "policy_version  7",
        "seed            3",
        "group_size      2",
        "groups          1 of 2",
        "solutions       2, 1 truncated",
        f"tokens          10; a solution 5.0, at most 6; {size / 10:.1f} bytes a token on disk",
        "verdicts        1: 1 correct; 0 abstained",
        "",
        "group  correct    tokens  problem                                   gold",
        "    4      1/2        10  p/1                                       2",
    ]


def test_the_texts_of_a_group_with_their_labels(run: Path, capsys):
    """Nothing that a model wrote reaches the terminal as a command."""
    assert shown(capsys, run, "--group", 4) == [
        "group 4: p/1, gold 2",
        "What is 1 + 1?\\x07",
        "",
        "--- sample 0: 4 tokens, mean log-prob -0.500, ended by eos",
        "    correct, answer 2",
        "    judge: of two",
        "[correct] One.",
        "[incorrect] Two.\\x1b[2J",
        "",
        "--- sample 1: 6 tokens, mean log-prob -0.500, ended by length",
        "    no verdict yet",
        "One.",
        "",
        "Two.\\x1b[2J",
    ]
    assert [line for line in shown(capsys, run, "--group", 4, "--sample", 1) if line.startswith("---")] == [
        "--- sample 1: 6 tokens, mean log-prob -0.500, ended by length"
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--group", "0"], "error: {rounds}/round_000001 has no group 0, only 4"),
        (["--group", "4", "--sample", "2"], "error: group 4 has no sample 2, only 0, 1"),
        (["--sample", "2"], "error: --sample is one of a group: give --group as well"),
    ],
)
def test_what_is_not_there_is_named(run: Path, args, message):
    with pytest.raises(SystemExit) as ended:
        main(["show", str(run), *args])
    assert ended.value.code == message.format(rounds=run / "rounds")


@pytest.mark.slow
def test_a_folder_without_rounds_ends_in_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "lit_tpgrpo.rounds", "show", str(tmp_path / "nothing")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/nothing: expected a stored round, such as ")
    assert done.stderr.count("\n") == 1


def test_damage_is_named_and_the_rest_is_shown(run: Path, capsys, caplog):
    folder = run / "rounds" / "round_000001"
    with (folder / "solutions.0.jsonl").open("a") as lines:
        lines.write(json.dumps({"groups": [5], "at": 10**6, "bytes": 8, "crc32": 0}) + "\n")
    assert "groups          1 of 2" in shown(capsys, run)
    assert "solutions.0.jsonl:2 cannot be read (ValueError: solutions.0.arrows ends before byte 1000008)" in caplog.text
