"""What reads the labels of a verdict step by step does work in proportion to the steps, like the readers of text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lit_tpgrpo.audit import verdict_row
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.error_detection import WrongSteps, make_record
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.judges.scoring import LabelCounts
from lit_tpgrpo.records import Outcome, Problem, StepLabel, Verdict
from lit_tpgrpo.search import JudgeStepScores
from tests.linear.work import TooMuchWork, measured

SHORT, LONG = 100, 400


def record(steps: int) -> WrongSteps:
    return make_record(Problem("p", "q", "4"), ["a b"] * steps, "4", Outcome.CORRECT, None)


def verdict(case: JudgeCase) -> Verdict:
    return Verdict(case.steps, (StepLabel.CORRECT,) * len(case.steps))


def counting(steps: int) -> Callable[[], object]:
    case = record(steps).case
    judged, truth = verdict(case), (StepLabel.CORRECT,) * len(case.steps)
    return lambda: LabelCounts().add(case, truth, judged)


def flagging(steps: int) -> Callable[[], object]:
    labelled = record(steps)
    judged = verdict(labelled.case)
    return lambda: labelled.flagged(judged)


def writing(steps: int) -> Callable[[], object]:
    case = record(steps).case
    judged = verdict(case)
    return lambda: verdict_row(case, judged, None)


def scoring(steps: int) -> Callable[[], object]:
    case = record(steps).case
    texts, judged = [case.solution.text[s.start : s.end] for s in case.steps], verdict(case)

    scorer = JudgeStepScores(RuleJudge(workers=1))
    return lambda: scorer._scores(texts, judged)


def superlinear(made: Callable[[int], Callable[[], object]]) -> bool:
    short, long = made(SHORT), made(LONG)
    try:
        measured(lambda _: long(), "", limit=5 * measured(lambda _: short(), ""))
    except TooMuchWork:
        return True
    return False


@pytest.mark.parametrize("made", [counting, flagging, writing, scoring])
def test_four_times_the_steps_take_at_most_five_times_the_work(made):
    assert not superlinear(made)
