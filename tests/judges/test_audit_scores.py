"""Labels that a set knows, F1 with its interval, and the alarm, by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.judges.audit_sets import read_labelled
from lit_tpgrpo.judges.audit_tables import label_text
from lit_tpgrpo.judges.base import abstain
from lit_tpgrpo.judges.error_detection import ErrorScores, make_record
from lit_tpgrpo.judges.intervals import RESAMPLES, detection_intervals, f1_interval, interval
from lit_tpgrpo.judges.scoring import LabelCounts, labels_at
from lit_tpgrpo.records import Outcome, Problem, Step, StepLabel, Verdict
from lit_tpgrpo.seeds import derived_seed

C, I, M, U, A = StepLabel  # noqa: E741


def counts(*pairs: tuple[StepLabel, StepLabel]) -> LabelCounts:
    """Steps by (true, given)."""
    return LabelCounts(Counter(pairs))


HIT, MISS = counts((I, I)), counts((I, C))


@pytest.mark.parametrize(
    ("outcome", "first", "wrong", "expected"),
    [
        (Outcome.CORRECT, None, None, (C, C, C, None)),
        (Outcome.CORRECT, 2, None, (C, I, None, None)),  # only the first error is known: what follows is not
        (Outcome.CORRECT, 1, {1, 3}, (I, C, I, None)),
        (Outcome.INCORRECT, 2, None, (None,) * 4),  # nobody annotated what the answer adopts
        (Outcome.INCORRECT, 1, {1}, (None,) * 4),
    ],
)
def test_what_is_known_where_wrong_steps_are(outcome, first, wrong, expected):
    known = None if wrong is None else frozenset(wrong)
    record = make_record(Problem("p", "q", "4"), ("a", "b", "c"), "4", outcome, first, known)
    assert record.known_labels == expected


def test_steps_without_a_known_label_do_not_count():
    record = make_record(Problem("p", "q", "4"), ("a", "b", "c"), "4", Outcome.CORRECT, 2)
    total = LabelCounts()
    total.add(record.case, record.known_labels, Verdict(record.case.steps, (I, I, I, C)))
    assert total == counts((C, I), (I, I))
    total.add(record.case, record.known_labels, abstain(record.case, "no reply"))
    assert total == LabelCounts(Counter({(C, I): 1, (I, I): 1, (C, A): 1, (I, A): 1}))


SPANS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5), st.sampled_from([C, I, M, U])), max_size=6)


@given(SPANS, st.lists(st.integers(0, 20), max_size=8))
def test_a_step_has_the_label_of_the_first_judged_step_that_covers_its_beginning(spans, starts):
    """In whatever order the judge's steps are, and if some have no text: these cover the character that they begin with."""
    step = lambda start, end: Step(start, end, 0, 0)  # noqa: E731
    verdict = Verdict(tuple(step(at, at + length) for at, length, _ in spans), tuple(label for *_, label in spans))
    expected = [
        [label for at, length, label in spans if at <= start < at + max(length, 1)][:1] or [A] for start in starts
    ]
    assert labels_at(verdict, [step(start, start + 1) for start in starts]) == [label for (label,) in expected]


def test_an_alarm_is_an_f1_below_the_threshold_of_a_label_that_occurs():
    total = counts((C, C), (I, C))  # CORRECT: precision 1/2, recall 1, F1 2/3; INCORRECT 0; MATCHED does not occur
    assert total.alarms(0.8) == [C, I]
    assert total.alarms(2 / 3) == [I]
    assert total.alarms(0.0) == []


def test_the_interval_of_two_solutions():
    """Drawn twice: both the hit (F1 1) or both the miss (0) a quarter each, one of each (2 * 1 / (2 + 1)) a half."""
    assert f1_interval([HIT, MISS], I) == (0.0, 1.0)
    low, high = interval([[1, 2], [0, 1]], lambda sums: 2 * sums[:, 0] / sums[:, 1], level=0.4) or (0, 0)
    assert (low, high) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_the_interval_resamples_solutions_not_steps():
    """One solution with a hit and a miss: every resample is itself, 2 * 1 / (2 + 1)."""
    assert f1_interval([counts((I, I)) + counts((I, C))], I) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_resamples_without_the_label_have_no_f1():
    assert f1_interval([HIT, counts((C, C))], I) == (1.0, 1.0)  # not 0 where the hit was not drawn
    assert f1_interval([counts((C, C))], I) is None
    assert f1_interval([], I) is None


def test_the_interval_agrees_with_a_plain_loop():
    solutions = [counts((C, C), (I, I)), counts((C, I), (C, C)), counts((I, C)), counts((C, C), (I, A))]
    generator = torch.Generator().manual_seed(derived_seed("bootstrap"))
    scores = []
    for _ in range(RESAMPLES):
        drawn = [solutions[i] for i in torch.randint(4, (4,), generator=generator).tolist()]
        scores.append(sum(drawn, LabelCounts()).f1(C))
    scores.sort()

    def at(share: float) -> float:  # linear between neighbours
        place = share * (RESAMPLES - 1)
        below = int(place)
        return scores[below] + (place - below) * (scores[below + 1] - scores[below])

    # A resample of the third solution alone gave CORRECT and has none: F1 0 by either formula.
    assert f1_interval(solutions, C) == (pytest.approx(at(0.025)), pytest.approx(at(0.975)))


def test_intervals_of_error_detection():
    def score(first: int | None, flagged: list[int]) -> ErrorScores:
        record = make_record(Problem("p", "q", "4"), ("a", "b"), "4", Outcome.CORRECT, first)
        scores = ErrorScores()
        scores.add(record, Verdict(record.case.steps, (*(I if n in flagged else C for n in (1, 2)), C)))
        return scores

    found = detection_intervals([score(1, [1]), score(1, [1]), score(None, [1]), score(None, [2])])
    assert found == {
        "accuracy, with an error": (1.0, 1.0),
        "accuracy, error-free": (0.0, 0.0),
        "F1 (harmonic mean)": (0.0, 0.0),
    }
    assert detection_intervals([score(1, [1])])["accuracy, error-free"] is None


def test_the_text_names_what_is_unknown_and_the_alarms():
    """CORRECT: 2 * 2 / (2 + 3) in all, 2 * 2 / (2 + 2) where the first is drawn twice, 2 * 2 / (2 + 4) where the second is."""
    solutions = [counts((C, C)), counts((C, C), (I, C))]
    lines = label_text(solutions, 0.8).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["correct", "0.8000", "0.6667", "to", "1.0000", "2", "2"],
        ["incorrect", "0.0000", "0.0000", "to", "0.0000", "1", "1"],
    ]
    assert lines[3:] == [
        "no step of these data is known to be: matched, unmatched",
        "ALARM: F1 of incorrect steps is 0.000, under 0.800",
    ]


ROW = {"uid": "u", "problem": "q", "gold": "4", "outcome": "correct", "steps": ["a", "", "b"], "answer": "4"}


def labelled(folder: Path, **changes: object) -> Path:
    path = folder / "chains.jsonl"
    path.write_text(json.dumps(ROW | {"labels": ["correct", "incorrect", None]} | changes) + "\n")
    return path


def test_labelled_chains(tmp_path: Path):
    """A step without text takes its label with it."""
    report = read_labelled(labelled(tmp_path))
    assert report.known_labels(0) == (C, None, None)
    assert report.truth(0) == ["correct", None, None]
    assert [report.cases[0].solution.text[s.start : s.end].strip() for s in report.cases[0].steps[:2]] == ["a", "b"]
    assert report.cases[0].outcome is Outcome.CORRECT
    report.add(0, Verdict(report.cases[0].steps, (I, C, C)))
    assert report.counts == counts((C, I))
    assert report.heading() == "1 solutions, 1 with a right answer; 0 rows left out"
    wrong = read_labelled(labelled(tmp_path, outcome="incorrect", labels=["matched", None, "unmatched"]))
    assert wrong.known_labels(0) == (M, U, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": ["correct", None]},
            r"one of correct, incorrect or null for each of the 3 steps .*, got \['correct'",
        ),
        ({"labels": ["matched", None, None]}, "one of correct, incorrect or null"),
        ({"outcome": "incorrect"}, "one of matched, unmatched or null"),
        ({"outcome": "wrong"}, "expected correct or incorrect in 'outcome', got 'wrong'"),
        ({"answer": " "}, "expected a text in 'answer'"),
    ],
)
def test_malformed_chains_are_named(tmp_path: Path, changes, message: str):
    with pytest.raises(InputError, match=f"line 1: .*{message}"):
        read_labelled(labelled(tmp_path, **changes))
