"""ProcessBench's scores by hand, the mapping of given steps, and the readers of MR-Ben and PRMBench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.judges.audit_sets import read_mrben, read_prmbench
from lit_tpgrpo.judges.base import abstain
from lit_tpgrpo.judges.error_detection import (
    DetectionResult,
    ErrorDetectionReport,
    ErrorScores,
    WrongSteps,
    detection_result,
    make_record,
)
from lit_tpgrpo.records import Outcome, Problem, StepLabel, Verdict
from lit_tpgrpo.text.paragraphs import paragraph_spans
from lit_tpgrpo.text.steps import steps_from_starts
from tests.real_data import RealData

C, I, M, U = StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.MATCHED, StepLabel.UNMATCHED  # noqa: E741
FOUR = ("one", "two", "three", "four")


def record(
    first: int | None,
    wrong: Sequence[int] | None = None,
    outcome: Outcome = Outcome.CORRECT,
    steps: Sequence[str] = FOUR,
) -> WrongSteps:
    known = None if wrong is None else frozenset(wrong)
    return make_record(Problem("p", "q", "4"), steps, "\\boxed{4}", outcome, first, known)


def verdict(of: WrongSteps, flagged: Sequence[int], flag: StepLabel = I, other: StepLabel = C) -> Verdict:
    labels = [flag if n in flagged else other for n in of.numbers]
    return Verdict(of.case.steps, (*labels, flag if flag is M else C))


def test_each_step_is_one_paragraph_whatever_stands_in_it():
    steps = ("  a:\n\n   \nb\r\n\r\nc \n", "Hmm.", "$$x$$\n\ny", "", "d")
    case = record(None, steps=steps).case
    text = case.solution.text
    assert [text[s.start : s.end] for s in case.steps] == [
        "a:\nb\nc\n\n",
        "Hmm.\n\n",
        "$$x$$\ny\n\n",
        "d\n",
        "</think>\n\n\\boxed{4}",
    ]
    assert [s.is_answer for s in case.steps] == [False] * 4 + [True]
    assert [start for start, _ in paragraph_spans(text, text.index("</think>"))] == [s.start for s in case.steps[:-1]]
    assert len(case.solution.completion_ids) == case.steps[-1].token_end == len(text)


def test_numbers_are_those_of_the_steps_as_given_also_after_an_empty_one():
    given = record(4, [4], steps=("a", " ", "b", "c"))
    assert given.numbers == (1, 3, 4)
    assert given.flagged(verdict(given, [4])) == {4}
    with pytest.raises(InputError, match="among the 3 with a text, got step 2"):
        record(2, steps=("a", " ", "b", "c"))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (("a", "see </think> there"), "got the tag </think> inside one"),
        (("$$ a", "b $$"), "a formula or code block that runs into another step"),
        ((" ", ""), "at least one step and an answer, got 0 steps"),
    ],
)
def test_steps_that_cannot_be_told_apart_are_refused(steps: tuple[str, ...], message: str):
    with pytest.raises(InputError, match=message):
        record(None, steps=steps)


def test_the_first_error_is_the_first_of_the_wrong_steps():
    with pytest.raises(InputError, match=r"first of the wrong steps \[2, 3\], got 3"):
        record(3, [2, 3])


@pytest.mark.parametrize(
    ("first", "flagged", "expected"),
    [
        (2, [2, 4], DetectionResult.FIRST_ERROR),
        (2, [1, 2], DetectionResult.TOO_EARLY),
        (2, [3], DetectionResult.TOO_LATE),
        (2, [], DetectionResult.MISSED),
        (None, [], DetectionResult.CLEAN),
        (None, [4], DetectionResult.FALSE_ALARM),
    ],
)
def test_detection_results(first: int | None, flagged: list[int], expected: DetectionResult):
    of = record(first)
    assert detection_result(of, verdict(of, flagged)) is expected
    assert detection_result(of, verdict(of, flagged, M, U)) is expected
    assert detection_result(of, abstain(of.case, "")) is (
        DetectionResult.CLEAN_ABSTAINED if first is None else DetectionResult.MISSED_ABSTAINED
    )


def test_the_answer_block_flags_nothing():
    of = record(None, outcome=Outcome.INCORRECT)
    assert verdict(of, [], M, U).labels[-1] is M
    assert of.flagged(verdict(of, [], M, U)) == frozenset()


def test_a_resegmented_verdict_is_read_where_each_given_step_begins():
    of = record(2, [2, 3])
    text, starts = of.case.solution.text, [s.start for s in of.case.steps]
    # The judge made two steps of the four: "one" with half of "two", and the rest.
    steps = steps_from_starts(text, [0, starts[1] + 1], of.case.solution.token_starts)
    assert of.flagged(Verdict(steps, (I, C, C))) == {1, 2}
    assert of.flagged(Verdict(steps, (C, I, C))) == {3, 4}


def test_scores_by_hand():
    """Four with an error, one of them found: 1/4. Two without, one unflagged: 1/2. F1 = 2 * 1/4 * 1/2 / (3/4) = 1/3.

    Wrong steps: 2 + 1 + 2 + 1 = 6; flagged 2 + 1 + 0 + 0 and 0 + 1 = 4, of them wrong 2: precision 1/2, recall 1/3.
    Right steps of the five that were judged: 2 + 3 + 2 + 4 + 4 = 15, flagged 2.
    """
    scores = ErrorScores()
    for wrong, flagged in (([2, 3], [2, 3]), ([4], [1]), ([1, 2], []), ([], []), ([], [3])):
        of = record(min(wrong, default=None), wrong)
        scores.add(of, verdict(of, flagged))
    of = record(3, [3])
    scores.add(of, abstain(of.case, "no reply"))
    assert scores.scores() == {
        "accuracy, with an error": 0.25,
        "accuracy, error-free": 0.5,
        "F1 (harmonic mean)": pytest.approx(1 / 3),
        "abstained share": pytest.approx(1 / 6),
        "wrong steps: precision": 0.5,
        "wrong steps: recall": pytest.approx(1 / 3),
        "wrong steps: F1": pytest.approx(0.4),
        "right steps flagged": pytest.approx(2 / 15),
    }
    assert sum(scores.results.values()) == 6


def test_where_only_the_first_error_is_known_steps_after_it_count_nowhere():
    scores = ErrorScores()
    of = record(2)
    scores.add(of, verdict(of, [2, 3]))
    assert scores.right == {"steps": 1, "flagged": 0}
    assert scores.scores()["wrong steps: precision"] is None
    clean = record(None, [])
    scores.add(clean, verdict(clean, [1]))
    assert scores.scores()["wrong steps: precision"] is None  # there was nothing to be precise about
    assert scores.scores()["F1 (harmonic mean)"] == 0.0


def test_the_table_has_a_column_for_each_outcome():
    records = [record(2), record(None), record(1, outcome=Outcome.INCORRECT)]
    report = ErrorDetectionReport(records)
    for i, (of, flagged) in enumerate(zip(records, ([2], [], [3]), strict=True)):
        report.add(i, verdict(of, flagged, M if i == 2 else I, U if i == 2 else C))
    cells = {line[:34].strip(): line[34:].split() for line in report.tables().splitlines()}
    assert cells["solutions with an error"] == ["2", "1", "1"]
    assert cells["first error flagged first"] == ["1", "1", "0"]
    assert cells["only later steps flagged"] == ["1", "0", "1"]
    assert cells["accuracy, with an error"] == ["0.5000", "1.0000", "0.0000"]
    assert cells["F1 (harmonic mean)"] == ["0.6667", "1.0000", "-"]
    assert "wrong steps: recall" not in cells
    assert report.heading() == "3 solutions: 2 with an error, 1 error-free; 2 with a right answer; 0 rows left out"


# ---- readers ----


def mrben_row(lines: Sequence[str], first: str = "N/A", **changes: Any) -> dict[str, Any]:
    row = {"Question_UUID": "u", "Sampled_Model": "m", "Question": "q?", "Options": "A: 1\nB: 2"}
    row |= {"Ground_Truth_Answer": "B", "Model_Solution_Steps": list(lines), "Model_Solution_First_Error_Step": first}
    return row | {"Model_Solution_Correctness": "correct" if first == "N/A" else "incorrect"} | changes


def mrben(folder: Path, *rows: Any, **options: Any) -> ErrorDetectionReport:
    path = folder / "mrben.json"
    path.write_text(json.dumps({"u": rows}))
    return read_mrben(path, **options)


def test_mrben_counts_the_steps_that_the_solver_numbered_not_the_lines(tmp_path: Path):
    lines = ("Preface.", "Step 1: add", "1 + 1 = 2", "Step 2: double", "2 * 2 = 5", "Solution: Choice_B")
    (of,) = mrben(tmp_path, mrben_row(lines, "2")).records
    text = of.case.solution.text
    assert [text[s.start : s.end].strip() for s in of.case.steps] == [
        "Preface.",
        "Step 1: add\n1 + 1 = 2",
        "Step 2: double\n2 * 2 = 5",
        "Solution: Choice_B",
        "</think>\n\nSolution: Choice_B",
    ]
    assert of.first_error == 3
    assert of.wrong is None
    assert of.case.problem == Problem("mrben/u/m", "q?\nA: 1\nB: 2", "B", "mrben")


@pytest.mark.parametrize(
    ("last", "first", "outcome"),
    [
        ("Solution: Choice_B", "1", Outcome.CORRECT),
        ("Solution: Choice B.", "1", Outcome.CORRECT),
        ("Solution: Choice\\_A", "1", Outcome.INCORRECT),
        ("Solution: None of the above (Choice_A/B/C/D)", "1", Outcome.INCORRECT),
        ("Solution: Choice A or Choice B", "1", Outcome.INCORRECT),
        ("Solution: Choice_B/C", "1", Outcome.INCORRECT),
        ("It is 2.", "N/A", Outcome.CORRECT),
    ],
)
def test_mrben_outcome_is_that_of_the_named_choice(tmp_path: Path, last: str, first: str, outcome: Outcome):
    (of,) = mrben(tmp_path, mrben_row(("Step 1: a", last), first)).records
    assert of.case.outcome is outcome


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (7, r"u item 2: expected an object with named fields, got 7 \(int\)"),
        (mrben_row(("a",), Question=""), "expected a text in 'Question', got ''"),
        (mrben_row(()), "expected a list of texts in 'Model_Solution_Steps', got"),
        (mrben_row(("a",), "N/A", Model_Solution_Correctness="maybe"), "expected correct or incorrect .* got 'maybe'"),
        (mrben_row(("a",), "x"), "number of a step of an incorrect solution, .* got 'x'"),
        (mrben_row(("a",), "1", Model_Solution_Correctness="correct"), "got '1' of a solution that is correct"),
        (mrben_row(("Step 1: a", "Step 2: b"), "3"), "number of the first error, 3, got 0"),
        (mrben_row(("Step 1: a", "Step 2: b", "Step 1: c"), "1"), "number of the first error, 1, got 2"),
    ],
)
def test_malformed_rows_stop_or_are_counted(tmp_path: Path, row: Any, message: str):
    good = mrben_row(("Step 1: a",))
    with pytest.raises(InputError, match=message) as stop:
        mrben(tmp_path, good, row)
    assert "1 of 2 rows read are malformed: u item 2: " in str(stop.value)
    report = mrben(tmp_path, good, row, on_malformed="skip")
    assert len(report.records) == 1
    assert sum(report.unusable.values()) == 1
    assert "1 rows left out\n  1 left out: expected" in report.heading()
    with pytest.raises(InputError, match="No usable row is left"):
        mrben(tmp_path, row, on_malformed="skip")


def test_a_limit_reads_no_further_and_repeated_uids_are_told_apart(tmp_path: Path):
    good = mrben_row(("Step 1: a",))
    report = mrben(tmp_path, good, good, 7, limit=2)
    assert [r.case.problem.uid for r in report.records] == ["mrben/u/m", "mrben/u/m-2"]
    assert report.records[1].case.solution.problem_uid == "mrben/u/m-2"


def prm_line(process: Sequence[str], errors: Any) -> str:
    row = {"idx": "i", "question": "q?", "modified_question": "q!", "modified_process": list(process)}
    return json.dumps(row | {"error_steps": errors, "ground_truth": "13"})


def test_prmbench_rows_with_and_without_wrong_steps(tmp_path: Path):
    path = tmp_path / "prm.jsonl"
    lines = [
        prm_line(("a", "b", "so 13.", "13"), [2, 3]),
        prm_line(("a", "so 113"), [1]),
        "",
        prm_line(("a\n\nb",), []),
    ]
    path.write_text("\n".join(lines))
    ends_right, ends_wrong, clean = read_prmbench(path).records
    assert (ends_right.first_error, ends_right.wrong, ends_right.case.outcome) == (2, {2, 3}, Outcome.CORRECT)
    assert (ends_wrong.first_error, ends_wrong.wrong, ends_wrong.case.outcome) == (1, {1}, Outcome.INCORRECT)
    assert (clean.first_error, clean.wrong, clean.case.outcome) == (None, frozenset(), Outcome.CORRECT)
    assert clean.case.solution.text == "a\nb\n</think>\n\n\\boxed{13}"
    assert ends_wrong.case.solution.text.endswith("</think>\n\nso 113")
    assert ends_right.case.problem.prompt == "q!"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: expected one JSON object, got invalid JSON"),
        (prm_line(("a",), [0]), r"expected a list of step numbers from 1 in 'error_steps', got \[0\]"),
        (prm_line(("a",), [True]), "expected a list of step numbers"),
        (prm_line(("a",), None), "got null"),
        (prm_line(("a",), [2]), "expected wrong steps among the 1 with a text, got step 2"),
    ],
)
def test_malformed_lines_of_prmbench(tmp_path: Path, line: str, message: str):
    path = tmp_path / "prm.jsonl"
    path.write_text(f"{line}\n{prm_line(('a',), [])}\n")
    with pytest.raises(InputError, match=message):
        read_prmbench(path)
    assert len(read_prmbench(path, "skip").records) == 1


def test_files_that_are_no_such_data(tmp_path: Path):
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match=r"x\.json: expected a file that can be read, got: No such file"):
        read_mrben(path)
    for content in ("[]", "{", '{"a": 1}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"x\.json: expected one JSON object"):
            read_mrben(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="expected UTF-8"):
        read_prmbench(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="expected at least one row, got none"):
        read_prmbench(path)


def test_the_real_files_are_read_whole(real_data: RealData):
    solutions, with_an_error, clean_solutions = {"sample": (42, 34, 12), "whole": (918, 769, 174)}[real_data.kind]
    report = read_mrben(real_data.folder / "mrben_math.json")
    assert len(report.records) == solutions
    assert sum(r.first_error is not None for r in report.records) == with_an_error
    assert sum(r.case.outcome is Outcome.CORRECT for r in report.records) >= solutions - with_an_error
    assert len({r.case.problem.uid for r in report.records}) == solutions
    clean = read_prmbench(real_data.folder / "prmbench_qwq_solutions.jsonl")
    assert len(clean.records) == clean_solutions
    assert "only false alarms can be measured" in clean.heading()
