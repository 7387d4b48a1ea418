"""RLSP: the worked numbers of its reward, lengths, grades that are missing, and what all credit assignments keep to."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit import CreditAssignment, MeanBaseline, RLSPCredit
from lit_tpgrpo.credit.rlsp import exploration_reward
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import SolutionGrade
from lit_tpgrpo.records import Reward, StopReason
from tests.credit.credit_cases import correct, group, incorrect, undecided


def graded(judged, grade):
    """On a scale from 1 to 10."""
    return dataclasses.replace(judged, evidence=(SolutionGrade(grade, 1.0, 10.0),))


def without_answer(judged):
    return dataclasses.replace(judged, answer=None)


def advantages(credited):
    assert all(len(set(c.advantages.tolist())) == 1 for c in credited)
    return [c.advantages[0].item() for c in credited]


@pytest.mark.parametrize(
    ("outcome", "characters", "grade", "length_scale", "reward"),
    [
        (1.0, 20_000, 0.6, 1000.0, 0.76),
        (1.0, 20_000, 0.5, 0.0, 0.9),  # the judge failed
        (-0.5, 20_000, 0.6, 0.0, -0.28),
    ],
)
def test_worked_numbers_of_the_reward(outcome, characters, grade, length_scale, reward):
    assert exploration_reward(outcome, characters, grade, length_scale, 0.2) == pytest.approx(reward)


def test_without_a_judge_it_is_the_outcome_less_the_length():
    """1 - 1000 / (20,000 / 4) = .8."""
    assert exploration_reward(1.0, 20_000, 0.0, 1000.0, 0.0) == pytest.approx(0.8)


def test_nothing_before_the_answer_divides_by_one_token():
    assert exploration_reward(1.0, 0, 0.0, 2.0, 0.0) == exploration_reward(1.0, 4, 0.0, 2.0, 0.0) == -1.0


def test_rewards_are_compared_with_the_group():
    """Each label is 2 characters: 2 before the answer of CC (1 and 9 tokens), 4 before that of the others. L = 1.

    R = .8 (1 - 1) + .2 = .2, .8 (0 - 1) + .2 / 2 = -.7, .8 (-.5 - 1) + 0 = -1.2; their mean is -.5667.
    """
    judged = [
        graded(correct("CC", lengths=[1, 9]), 10.0),
        incorrect("UMM", lengths=[1, 9, 1]),
        graded(without_answer(incorrect("UMM")), 1.0),
    ]
    credited = RLSPCredit(length_scale=1.0, baseline=MeanBaseline())(group(*judged))
    assert advantages(credited) == pytest.approx([0.2 + 1.7 / 3, -0.7 + 1.7 / 3, -1.2 + 1.7 / 3])
    assert [len(c.advantages) for c in credited] == [10, 11, 4]
    # Without an answer block all characters count: 6 in place of 4.
    open_end = incorrect("UUU", stop=StopReason.LENGTH, answer_step=False)
    [one, _] = RLSPCredit(1.5, 0.0, MeanBaseline())(group(without_answer(open_end), incorrect("M")))
    assert one.advantages[0].item() == pytest.approx(((-0.5 - 1.0) - (0.0 - 1.5)) / 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 10)), min_size=2, max_size=6))
def test_without_a_length_term_the_order_of_the_group_does_not_matter_and_the_mean_is_0(members):
    judged = [graded(correct("CC") if right else incorrect("MM"), float(grade)) for right, grade in members]
    straight = advantages(RLSPCredit(0.0)(group(*judged)))
    assert sum(straight) == pytest.approx(0.0, abs=1e-5)
    assert advantages(RLSPCredit(0.0)(group(*reversed(judged)))) == pytest.approx(straight[::-1], abs=1e-5)


def test_what_all_credit_assignments_keep_to():
    credit, judged = RLSPCredit(), [graded(correct("CC"), 9.0), graded(incorrect("UM"), 3.0)]
    assert isinstance(credit, CreditAssignment)
    alone = advantages(credit(group(*judged)))
    assert advantages(credit(group(*judged, undecided("A")))) == [*alone, 0.0]
    assert advantages(credit(group(judged[0], judged[0]))) == [0.0, 0.0]
    with pytest.raises(ConfigError, match="'p' has 1 solution"):
        credit(group(judged[0]))
    shaped = dataclasses.replace(judged[0], reward=Reward(0.5, 1.0, {"outcome": 1.0, "overlong": -0.5}))
    with pytest.warns(UserWarning, match="RLSPCredit uses outcomes, lengths and grades alone"):
        credit(group(shaped, judged[1]))


def test_a_judge_is_needed_where_its_grade_counts():
    with pytest.raises(ConfigError, match=r"RLSPCredit needs SolutionGrade .*lit_tpgrpo\.PrinciplesGrades"):
        checked_evidence(None, RLSPCredit())
    assert checked_evidence(None, RLSPCredit(grade_weight=0.0)) == ()
    for settings in ({"length_scale": -1.0}, {"length_scale": math.inf}, {"grade_weight": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            RLSPCredit(**settings)
