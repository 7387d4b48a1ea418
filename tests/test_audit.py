"""The audit's command line: options, where the judge comes from, what is printed and written, and how it ends early."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lit_tpgrpo import audit
from lit_tpgrpo.judges.base import JudgeCase, abstain
from lit_tpgrpo.records import StepLabel, Verdict
from tests.real_data import RealData

ROOT = Path(__file__).parent.parent


class Flagger:
    """A judge that flags one step of each solution and abstains on the first; ``stop_at`` plays Ctrl-C."""

    name = "flagger"
    closed = 0

    def __init__(self, place: int = 0, stop_at: int = -1, slow: bool = False) -> None:
        self.place, self.stop_at, self.slow = place, stop_at, slow

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        for i, case in enumerate(cases):
            if i == self.stop_at:
                raise KeyboardInterrupt
            labels = [StepLabel.INCORRECT if n == self.place else StepLabel.CORRECT for n in range(len(case.steps))]
            yield i, abstain(case, "no reply") if i == 0 else Verdict(case.steps, tuple(labels))
            time.sleep(0.05 * self.slow)

    def metrics(self) -> dict[str, float]:
        return {"cases": 3.0, "abstained": 1.0, "abstained_faults": 1.0, "retries": 0.0, "cost": 0.125, "requests": 7.0}

    def close(self) -> None:
        type(self).closed += 1


FLAGGER = f"{__name__}.Flagger"


def prmbench(folder: Path) -> list[str]:
    rows = [
        {"idx": f"i{k}", "question": "q", "modified_process": ["a", "b"], "error_steps": wrong, "ground_truth": "2"}
        for k, wrong in enumerate(([1], [1, 2], []))
    ]
    path = folder / "prm.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--data", "prmbench", "--path", str(path)]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lit_tpgrpo.audit", *args], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )


def test_tables_counts_and_verdicts_of_any_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new" / "out.jsonl"
    closed = Flagger.closed
    audit.main([*prmbench(tmp_path), "--judge", FLAGGER, "--judge.place", "0", "--out", str(out)])
    printed = capsys.readouterr()
    assert "3 solutions: 2 with an error, 1 error-free; 1 with a right answer; 0 rows left out" in printed.out
    assert re.search(r"judge flagger: 3 of 3 solutions in \d", printed.out)
    cells = {line[:34].strip(): line[34:].split() for line in printed.out.splitlines()}
    assert cells["first error flagged first"] == ["1", "0", "1"]
    assert cells["abstained (with an error)"] == ["1", "0", "1"]
    assert cells["a step flagged (false alarm)"] == ["1", "1", "0"]
    assert cells["wrong steps: recall"][0] == "0.3333"
    # Two answers are wrong: no label is known there. The third is right, and the judge flags one of its two steps.
    assert printed.out.splitlines()[-9:-5] == [
        "label           F1      95% interval   steps solutions",
        "correct     0.6667  0.6667 to 0.6667       2         1",
        "no step of these data is known to be: incorrect, matched, unmatched",
        "ALARM: F1 of correct steps is 0.667, under 0.800",
    ]
    assert printed.out.splitlines()[-4:] == [
        "solutions     cases 3, abstained 1, abstained_faults 1",
        "cost          cost 0.125",
        "requests      requests 7",
        "zero          retries",
    ]
    assert lines_of(out) == [
        {
            "uid": "prmbench/i0",
            "outcome": "incorrect",
            "labels": ["abstained"] * 3,
            "judged_steps": 3,
            "note": "no reply",
            "truth": {"first_error": 1, "wrong": [1]},
        },
        {
            "uid": "prmbench/i1",
            "outcome": "incorrect",
            "labels": ["incorrect", "correct", "correct"],
            "judged_steps": 3,
            "note": "",
            "truth": {"first_error": 1, "wrong": [1, 2]},
        },
        {
            "uid": "prmbench/i2",
            "outcome": "correct",
            "labels": ["incorrect", "correct", "correct"],
            "judged_steps": 3,
            "note": "",
            "truth": {"first_error": None, "wrong": []},
        },
    ]
    assert "3/3" in printed.err
    assert Flagger.closed == closed + 1


def test_ctrl_c_keeps_what_was_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    closed = Flagger.closed
    with pytest.raises(SystemExit) as stop:
        audit.main([*prmbench(tmp_path), "--judge", FLAGGER, "--judge.stop_at", "2", "--out", str(out)])
    assert stop.value.code == 130
    assert [row["uid"] for row in lines_of(out)] == ["prmbench/i0", "prmbench/i1"]
    assert re.search(r"2 of 3 solutions in .* \(ended early: the tables cover only these\)", capsys.readouterr().out)
    assert Flagger.closed == closed + 1


def test_the_judge_of_a_training_configuration_and_changes_to_it(tmp_path: Path):
    path = tmp_path / "train.yaml"
    path.write_text(
        f"data:\n  class_path: X\n  init_args:\n    judge:\n      class_path: {FLAGGER}\n      init_args: {{place: 1}}\n"
    )
    for options, place in (((), 1), (("--judge.place", "2"), 2)):
        parser, options = audit.read_options(["--train_config", str(path), *options])
        judge = parser.instantiate(options).judge
        assert isinstance(judge, Flagger)
        assert judge.place == place
    parser, options = audit.read_options(["--train_config", str(ROOT / "configs" / "experiment" / "hard.yaml")])
    assert parser.instantiate(options).judge.name == "rule"


@pytest.mark.slow
def test_a_judge_from_a_config_file(tmp_path: Path):
    path = tmp_path / "judge.yaml"
    path.write_text(
        """
judge:
  class_path: lit_tpgrpo.judges.generative.judge.GenerativeJudge
  init_args:
    chat: {class_path: lit_tpgrpo.chat.openai_chat.OpenAIChat, init_args: {model: m, base_url: "http://localhost:9"}}
    store: null
"""
    )
    parser, options = audit.read_options(
        ["--config", str(path), "--judge.query.votes", "3", "--judge.query.temperature", "0.6"]
    )
    judge = parser.instantiate(options).judge
    assert (judge.query.votes, judge.query.temperature) == (3, 0.6)
    judge.close()


LOCAL = ["--judge", "lit_tpgrpo.judges.generative.judge.GenerativeJudge"]
LOCAL += ["--judge.chat", "lit_tpgrpo.chat.local_chat.LocalChat", "--judge.chat.model", "policy"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "mrben"], "--data mrben needs a file; give it as --path"),
        (["--path", "x"], "--path cannot be given with --data embedded"),
        (["--data", "mrben", "--level", "3", "--seed", "1"], "--level and --seed cannot be given with --data mrben"),
        (["--level", "9"], "level must be one of .*, got '9'"),
        (["--alarm_f1", "1.5"], r"alarm_f1 must be in \[0, 1\], got 1.5"),
        (["--data", "labelled"], "--data labelled needs a file; give it as --path"),
        (["--n", "0"], "n must be at least 1, got 0"),
        (["--data", "mrben", "--path", "no/such.json"], r"no/such\.json: expected a file that can be read"),
        (["--train_config", "no/such.yaml"], r"--train_config no/such\.yaml: expected a YAML file that can be read"),
        (["--train_config", "pyproject.toml"], "--train_config .*: expected a"),
        (["--judge.max_work", "0"], "max_work must be at least 1, got 0"),
        (["--n", "1", "--out", "/dev/null/x"], "--out /dev/null/x: expected a file that can be written"),
        (["--n", "1", *LOCAL], "the judge is the policy in training"),
    ],
    ids=lambda v: " ".join(v[:2]) if isinstance(v, list) else "",
)
def test_a_mistake_ends_in_one_line(args: list[str], message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as stop:
        audit.main(args)
    assert "\n" not in str(stop.value)


def test_a_misspelt_option_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        audit.main(["--sampels", "model"])
    assert stop.value.code == 2  # as with train.py
    assert "--sampels" in capsys.readouterr().err


def test_a_programming_error_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(metrics: object) -> str:
        raise IndexError("ours")

    monkeypatch.setattr(audit, "counts_text", fail)
    closed = Flagger.closed
    with pytest.raises(IndexError, match="ours"):
        audit.main([*prmbench(tmp_path), "--judge", FLAGGER])
    assert Flagger.closed == closed + 1


@pytest.mark.slow
def test_the_command_on_the_embedded_domain(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    done = run("--train_config", "configs/quickstart.yaml", "--n", "20", "--level", "3", "--out", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"20 solutions: (\d+) correct, (\d+) incorrect, 0 without known truth", done.stdout)
    assert found
    assert int(found[1]) + int(found[2]) == 20
    rows = lines_of(out)
    assert len(rows) == 20
    assert sum(row["outcome"] == "correct" for row in rows) == int(found[1])
    assert all(len(row["truth"]) == len(row["labels"]) == row["judged_steps"] for row in rows)
    table = done.stdout.split("true / given")[0]
    supports = [int(line.split()[-1]) for line in table.splitlines() if line.startswith(("correct ", "incorrect "))]
    supports += [int(line.split()[-1]) for line in table.splitlines() if line.startswith(("matched ", "unmatched "))]
    assert sum(supports) == sum(len(row["labels"]) for row in rows)
    assert "correct solutions in which every error was corrected" in done.stdout
    assert "solutions     cases 20" in done.stdout
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("data", "file", "counts"),
    [
        ("mrben", "mrben_math.json", {"sample": (42, 34), "whole": (918, 769)}),
        ("prmbench", "prmbench_qwq_solutions.jsonl", {"sample": (12, 0), "whole": (174, 0)}),
    ],
)
def test_the_tables_of_real_files(
    real_data: RealData, data: str, file: str, counts: dict[str, tuple[int, int]], capsys: pytest.CaptureFixture[str]
):
    n, errors = counts[real_data.kind]
    audit.main(["--data", data, "--path", str(real_data.folder / file)])
    printed = capsys.readouterr().out
    assert f"{n} solutions: {errors} with an error, {n - errors} error-free" in printed
    cells = {
        line[:34]: [int(c) for c in line[34:].split()]
        for line in printed.splitlines()
        if line[34:36] == "  " and not line[34:].strip().startswith(("all", "0.", "-", "1."))
    }
    for title in ("solutions with an error", "error-free solutions"):
        whole = next(v for k, v in cells.items() if k.startswith(title))
        assert whole[0] == whole[1] + whole[2] == (errors if "with" in title else n - errors)
    assert sum(v[0] for k, v in cells.items() if k.startswith("  ")) == n


@pytest.mark.slow
def test_ctrl_c_on_the_real_process(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    judge = ["--judge", "tests.test_audit.Flagger", "--judge.slow", "true"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_tpgrpo.audit", *judge, "--out", str(out)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(36_000):  # an hour: a hang ends here
            if (out.exists() and out.stat().st_size) or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=1200)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    done = re.search(r"judge flagger: (\d+) of 500 solutions", stdout)
    assert done
    assert abs(len(lines_of(out)) - int(done[1])) <= 1  # the line is written before the verdict is counted
