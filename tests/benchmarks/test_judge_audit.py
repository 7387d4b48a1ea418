"""The table of judges and sets: what is judged, kept and scored, and what an interruption leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from benchmarks.judge_audit.__main__ import _without_folder, main
from benchmarks.judge_audit.corrections import write_corrections
from benchmarks.judge_audit.pairs import chosen_indices
from lit_tpgrpo.judges.audit_sets import read_labelled
from lit_tpgrpo.judges.base import JudgeCase, abstain
from lit_tpgrpo.records import StepLabel, Verdict
from tests.real_data import WHOLE, WHOLE_IS_THERE

C, I = StepLabel.CORRECT, StepLabel.INCORRECT  # noqa: E741


class FirstWrong:
    """Flags the first step, abstains on problems that say so, and takes 2 requests of 5 + 1 tokens a solution."""

    name = "first_wrong"
    asked: list[str] = []  # noqa: RUF012 - what all instances were asked

    def __init__(self) -> None:
        self.new = 0

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        for i, case in enumerate(cases):
            self.asked.append(case.problem.uid)
            self.new += 1
            labels = (I, *(C for _ in case.steps[1:]))
            yield i, abstain(case, "silent") if "silent" in case.problem.prompt else Verdict(case.steps, labels)

    def metrics(self) -> dict[str, float]:
        n, self.new = self.new, 0
        return {
            "cases": n,
            "abstained_invalid": 1.0,
            "abstained_share": 0.5,
            "requests": 2.0 * n,
            "tokens_prompt": 10.0 * n,
            "tokens_completion": 2.0 * n,
        }

    def close(self) -> None: ...


ROWS = [  # wrong steps; whether the problem is one on which the judge abstains
    ([1], False),
    ([], False),
    ([2], True),
    ([], False),
]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A plan with one judge and one set, of four solutions of two steps whose answer is right."""
    rows = [
        {
            "idx": f"i{k}",
            "question": "silent" if silent else "q",
            "modified_process": ["a", "so 2"],
            "error_steps": wrong,
            "ground_truth": "2",
        }
        for k, (wrong, silent) in enumerate(ROWS)
    ]
    (tmp_path / "prm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = {
        "sets": {"prm": {"options": "--data prmbench --path {data_dir}/prm.jsonl", "labels": "made by hand"}},
        "judges": {"first": {"options": f"--judge {__name__}.FirstWrong", "chunk": 2}},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    FirstWrong.asked.clear()
    paths = [f"--{name}={tmp_path / name}" for name in ("work", "out")]
    return ["--data-dir", str(tmp_path), "--plan", str(tmp_path / "plan.yaml"), *paths]


def results(tmp_path: Path) -> dict:
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    return result


def test_scores_costs_and_alarms(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """INCORRECT: 1 of 2 found, 3 flagged: 2 * 1 / (2 + 3). CORRECT: of 6, 3 were given it, all right: 2 * 3 / (6 + 3)."""
    main(arguments)
    result = results(tmp_path)
    incorrect, correct = result["labels"]["incorrect"], result["labels"]["correct"]
    assert (incorrect["f1"], incorrect["steps"], incorrect["solutions"]) == (pytest.approx(0.4), 2, 2)
    assert (correct["f1"], correct["steps"], correct["solutions"]) == (pytest.approx(2 / 3), 6, 4)
    low, high = incorrect["interval"]
    assert 0 <= low < 0.4 < high <= 1
    assert (result["solutions"], result["of"], result["abstained"]) == (4, 4, 0.25)
    assert (result["requests_per_solution"], result["tokens_per_solution"]) == (2.0, 12.0)
    command = json.loads((tmp_path / "out" / "results.json").read_text())["command"]
    assert command.startswith("python -m benchmarks.judge_audit --data-dir DIR --plan ")
    assert f"Command that makes it: `{command}`" in (tmp_path / "out" / "table.md").read_text()
    assert result["abstentions"] == {"abstained_invalid": 2}  # one a chunk
    assert result["alarms"] == ["correct", "incorrect"]
    assert result["detection"]["accuracy, with an error"]["value"] == 0.5
    assert result["detection"]["accuracy, error-free"]["value"] == 0.0
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| first | prm | 4 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3].startswith("0.667 [")
    assert cells[4].startswith("0.400 [")
    assert cells[5:] == ["-", "-", "25.0%", "2.00", "12", "CORRECT, INCORRECT"]
    assert "- **prm**: made by hand." in lines
    assert "first on prm: alarms correct, incorrect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--data-dir", "/home/me/data", "--judges", "rule"], "--data-dir DIR --judges rule"),
        (["--data=/home/me/data", "--limit", "2"], "--data-dir=DIR --limit 2"),
        (["--limit", "2", "--d", "/home/me/data"], "--limit 2 --data-dir DIR"),
    ],
)
def test_the_tables_name_no_folder_of_this_machine(given: list[str], shown: str):
    assert " ".join(_without_folder(given)) == shown


def test_an_interrupted_audit_goes_on_where_it_was(tmp_path: Path, arguments: list[str]):
    """Chunks of two: the third solution ends the process, and the chunk that it is in is judged again."""
    order = [f"prmbench/i{i}" for i in range(4)]
    plan = tmp_path / "plan.yaml"
    whole = plan.read_text()
    plan.write_text(whole.replace("FirstWrong", "Stopping"))
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 130
    assert FirstWrong.asked == order[:3]
    Stopping.stopped = True
    main(arguments)
    assert FirstWrong.asked == order[:3] + order[2:]
    interrupted = results(tmp_path)
    main(arguments)  # complete: scored again, and nobody is asked
    assert len(FirstWrong.asked) == 5
    plan.write_text(whole)
    main([*arguments[:-2], f"--work={tmp_path / 'work2'}", arguments[-1]])
    uninterrupted = results(tmp_path)
    differing = {"seconds_per_solution"}
    assert {k: v for k, v in interrupted.items() if k not in differing} == {
        k: v for k, v in uninterrupted.items() if k not in differing
    }
    with pytest.raises(SystemExit, match=r"prm\.jsonl was begun with .*Stopping"):
        main(arguments)


class Stopping(FirstWrong):
    """Is interrupted once, at the last but one solution."""

    stopped = False

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        for i, case in enumerate(cases):
            if case.problem.uid == "prmbench/i3" and not self.stopped:
                raise KeyboardInterrupt
            yield from ((i, verdict) for _, verdict in super().judge([case]))


def test_a_limit_judges_a_sample_and_a_larger_one_adds_to_it(tmp_path: Path, arguments: list[str]):
    assert [chosen_indices([True] * 4, n) for n in (4, None, 9)] == [[0, 1, 2, 3]] * 3
    assert chosen_indices([True] * 4, 3)[:2] == chosen_indices([True] * 4, 2)
    assert set(chosen_indices([False, True, False, True], 2)) == {1, 3}  # the others have nothing to score
    main([*arguments, "--limit", "2"])
    assert (results(tmp_path)["solutions"], results(tmp_path)["of"]) == (2, 4)
    assert "| first | prm | 2 of 4 |" in (tmp_path / "out" / "table.md").read_text()
    plan = tmp_path / "plan.yaml"
    plan.write_text(plan.read_text().replace("chunk: 2", "chunk: 2\n    limit: {prm: 3}"))  # of sets by name
    main(arguments)
    assert len(FirstWrong.asked) == len(set(FirstWrong.asked)) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--judges", "other"], r"--judges other: .*plan\.yaml has first"),
        (["--sets", "other"], r"--sets other: .*plan\.yaml has prm"),
        (["--option", "other=--n 3"], "--option 'other=--n 3': expected NAME=OPTIONS with a judge of first"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--option", "first=--n 0"], "n must be at least 1, got 0"),
    ],
)
def test_mistakes_end_in_one_line(arguments: list[str], more: list[str], message: str):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main([*arguments, *more])


@pytest.mark.slow
@pytest.mark.skipif(not WHOLE_IS_THERE, reason="the whole real data are not beside the checkout")
def test_the_annotated_chains_keep_their_labels(tmp_path: Path):
    """56 chains, 32 steps that a later one puts right, 10 that may be labelled either way."""
    path = tmp_path / "corrections.jsonl"
    assert write_corrections(WHOLE.folder, path) == 56
    report = read_labelled(path)
    labels = [label for i in range(56) for label in report.known_labels(i)[:-1]]
    assert labels.count(I) == 32
    assert labels.count(None) == 10
