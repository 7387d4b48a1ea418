"""Plain GRPO, by hand."""

import pytest
import torch

from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, StepLabel
from tests.credit.credit_cases import correct, group, incorrect, solution, undecided


def test_outcome_on_every_token():
    credited = OutcomeCredit(ddof=0, eps=0.0)(group(correct("CIC"), incorrect("UM"), correct("C"), correct("CC")))
    # 3 of 4 correct: mean 0.5, population variance 0.75
    expected = [0.5773503, -1.7320508, 0.5773503, 0.5773503]
    for one, r in zip(credited, expected, strict=True):
        assert one.outcome_advantage == pytest.approx(r, abs=1e-6)
        n = len(one.judged.solution.completion_ids)
        torch.testing.assert_close(one.advantages, torch.full((n,), r), rtol=0, atol=1e-6)
        assert not any(one.process_rewards)
    # kept for show
    assert [t.label for t in credited[0].thoughts] == [StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.CORRECT]


def outcomes(credited):
    return [c.outcome_advantage for c in credited]


def test_an_unverifiable_answer_is_rewarded_as_incorrect():
    credited = OutcomeCredit(ddof=0, eps=0.0)(group(correct("C"), solution("M", Outcome.UNVERIFIABLE)))
    assert outcomes(credited) == [1.0, -1.0]


def test_undecided_outcomes_leave_the_groups_statistics():
    # Of 8 right solutions one is undecided: the others are all alike. As incorrect it would have got -2.5.
    judged = group(*[correct("C")] * 7, undecided("A"))
    assert outcomes(OutcomeCredit()(judged)) == [0.0] * 8
    assert judged.accuracy == 1.0
    # 1, 1, -1 and two undecided: mean 1/3, population deviation sqrt(8/9)
    mixed = group(undecided("A"), correct("C"), correct("C"), undecided("A"), incorrect("M"))
    assert mixed.accuracy == pytest.approx(2 / 3)
    expected = [0.0, 0.5**0.5, 0.5**0.5, 0.0, -(2.0**0.5)]
    assert outcomes(OutcomeCredit(ddof=0, eps=0.0)(mixed)) == pytest.approx(expected)


@pytest.mark.parametrize("make", [correct, incorrect])
def test_uniform_groups_teach_nothing(make):
    for one in OutcomeCredit()(group(make("AA"), make("A"))):
        assert one.advantages.eq(0).all()


def test_labels_do_not_pay():
    # Not even those that the other assignments would refuse: a judge may be off or wrong here.
    assert OutcomeCredit(ddof=0, eps=0.0)(group(correct("MI"), incorrect("M")))[0].advantages.tolist() == [1.0] * 3


def test_refusals():
    assert isinstance(OutcomeCredit(), CreditAssignment)
    with pytest.raises(ConfigError, match="ddof must be 0"):
        OutcomeCredit(ddof=-1)
    with pytest.raises(ConfigError, match="has 1 solution"):
        OutcomeCredit()(group(correct("C")))
