"""Scores of evaluated groups, by hand."""

from __future__ import annotations

import pytest

from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rollout.evaluation import _Scored, scores_of

C, I, UNDECIDED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNDECIDED  # noqa: E741


def test_undecided_samples_count_as_not_correct_and_are_reported():
    groups = [_Scored((C, UNDECIDED), ("1", "1"), 1, 10), _Scored((I, C), ("2", "3"), 0, 6)]
    scores = {name: float(value) for name, value in scores_of(groups, (1,)).items()}
    assert scores["avg@2"] == 0.5
    assert scores["pass@2"] == 1.0
    assert scores["undecided_share"] == scores["truncated_share"] == pytest.approx(0.25)
    assert scores["length_mean"] == 4.0
