"""Dense rewards of process-guided code RL: the labels of the worked search as rewards beside the outcome."""

import dataclasses

import pytest

from lit_tpgrpo.credit import CreditAssignment, DenseRewardCredit, MeanBaseline, OutcomeCredit
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import StepScores
from tests.credit.credit_cases import correct, group, incorrect, undecided


def scored(judged, *scores, low=-1.0):
    return dataclasses.replace(judged, evidence=(StepScores(scores, low, 1.0),))


RIGHT = scored(correct("CC", lengths=[9, 1]), 1.0, 1.0)
WRONG = scored(incorrect("UUUUM", lengths=[1, 9, 1, 1, 2]), 1.0, 1.0, -1.0, -1.0, -1.0)
CREDIT = DenseRewardCredit(weight_correct=0.5, weight_incorrect=2.0, baseline=MeanBaseline())


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


def test_scores_are_summed_to_the_end_and_divided_by_their_number():
    """Outcomes +1 and -1, mean 0. Right: 1 + .25 x (2, 1). Wrong: -1 + .4 x (-1, -2, -3, -2, -1), whatever the lengths."""
    right, wrong = CREDIT(group(RIGHT, WRONG))
    assert right.advantages.tolist() == pytest.approx([1.5] * 9 + [1.25])
    assert wrong.advantages.tolist() == pytest.approx([-1.4] + [-1.8] * 9 + [-2.2, -1.8, -1.4, -1.4])
    assert right.process_rewards == pytest.approx((0.25, 0.25))
    assert wrong.process_rewards == pytest.approx((0.4, 0.4, -0.4, -0.4, -0.4))
    assert (right.outcome_advantage, wrong.outcome_advantage) == (1.0, -1.0)


def test_more_lines_do_not_add_up_to_more():
    short, long = scored(correct("CC"), 1.0, 1.0), scored(correct("C" * 9), *[1.0] * 9)
    for credited in CREDIT(group(short, long)):
        assert sum(credited.process_rewards) == pytest.approx(0.5)


def test_a_neutral_step_counts_for_nothing():
    """Of three steps the second has no score: S is 2, and it has the sum of what follows."""
    _, credited = CREDIT(group(RIGHT, scored(incorrect("UUM"), 1.0, None, -1.0)))
    assert credited.process_rewards == pytest.approx((1.0, 0.0, -1.0))
    assert credited.advantages.tolist() == pytest.approx([-1.0, -2.0, -2.0, -2.0])


def test_another_scale_is_put_on_this_one():
    one = CREDIT(group(RIGHT, scored(incorrect("UUM"), 1.0, 0.25, 0.0, low=0.0)))
    other = CREDIT(group(RIGHT, scored(incorrect("UUM"), 1.0, -0.5, -1.0)))
    assert advantages(one) == advantages(other)


@pytest.mark.parametrize("lacking", [incorrect("UM"), scored(incorrect("UM"), None, None)])
def test_a_solution_without_scores_has_its_outcome(lacking):
    judged = group(RIGHT, lacking)
    assert (
        CREDIT(judged)[1].advantages.tolist() == OutcomeCredit(baseline=MeanBaseline())(judged)[1].advantages.tolist()
    )


def test_what_all_credit_assignments_keep_to():
    assert isinstance(CREDIT, CreditAssignment)
    straight = advantages(CREDIT(group(RIGHT, WRONG)))
    assert advantages(CREDIT(group(WRONG, RIGHT))) == straight[::-1]
    assert advantages(CREDIT(group(undecided("AA"), RIGHT, WRONG))) == [[0.0] * 3, *straight]
    with pytest.raises(ConfigError, match="'p' has 1 solution"):
        CREDIT(group(RIGHT))
    # All correct: no outcome to compare, and the scores are left.
    assert advantages(DenseRewardCredit()(group(RIGHT, RIGHT))) == [[1.0] * 9 + [0.5]] * 2


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="weight_incorrect must be finite and not be negative, got -1"):
        DenseRewardCredit(weight_incorrect=-1)
    with pytest.raises(ConfigError, match=r"DenseRewardCredit needs StepScores .*lit_tpgrpo\.FeasiblePrefixScores"):
        checked_evidence(None, DenseRewardCredit())
    with pytest.raises(ValueError, match="has 1 scores for 2 steps"):
        CREDIT(group(scored(correct("CC"), 1.0), WRONG))
