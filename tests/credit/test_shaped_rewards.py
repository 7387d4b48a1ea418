"""Credit where the outcome is not the only reward: by hand, and the same as without rewards where it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit.baselines import StandardisedBaseline
from lit_tpgrpo.credit.group_relative import RewardAdvantage, reward_advantages
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.credit.step import StepCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.credit.unadapted import UnadaptedThoughtCredit
from lit_tpgrpo.records import JudgedGroup, Outcome, Reward
from lit_tpgrpo.rewards import OutcomeReward
from lit_tpgrpo.rewards.weighted import WeightedRewards, WeightedTerm
from tests.credit.credit_cases import correct, group, incorrect, solution, undecided

EXACT = {"ddof": 0, "eps": 0.0}


def rewarded(judged, overlong: float | None, outcome: float | None = None):
    """With the outcome's +-1 and DAPO's overlong penalty."""
    part = (1.0 if judged.outcome is Outcome.CORRECT else -1.0) if outcome is None else outcome
    terms = {"outcome": part, "overlong": overlong}
    return dataclasses.replace(judged, reward=Reward(part + (overlong or 0.0), part, terms))


def advantages(credited) -> list[float]:
    return [round(a, 6) for a in credited.advantages.tolist()]


def test_a_group_with_overlong_penalties():
    """Rewards 1, 0, -1, -2 (penalties 0, -1, 0, -1): mean -0.5, population deviation sqrt(1.25) = 1.118034.

    r = 1.341641, 0.447214, -0.447214, -1.341641. The outcome's part is +-1 / 1.118034 = +-0.894427, the penalty's
    +-0.5 / 1.118034 = +-0.447214. acc 1/2, so r_c = 0.5.
    """
    judged = group(
        rewarded(correct("CIC"), 0.0),
        rewarded(correct("CIC"), -1.0),
        rewarded(incorrect("MUM"), 0.0),
        rewarded(incorrect("MUM"), -1.0),
    )
    short_right, long_right, short_wrong, long_wrong = ThoughtCredit(**EXACT)(judged)
    parts = [r.outcome_part for r in reward_advantages(judged.rewarded, StandardisedBaseline(0, 0.0))]
    assert parts == pytest.approx([0.894427, 0.894427, -0.894427, -0.894427], abs=1e-6)
    # Correct: r, and r - r_c in the incorrect thought.
    assert advantages(short_right) == [1.341641, 0.841641, 1.341641, 1.341641]
    assert advantages(long_right) == [0.447214, -0.052786, 0.447214, 0.447214]
    # Incorrect: r where the answer adopts the thought, elsewhere the penalty's part alone.
    assert advantages(short_wrong) == [-0.447214, 0.447214, -0.447214, -0.447214]
    assert advantages(long_wrong) == [-1.341641, -0.447214, -1.341641, -1.341641]
    assert [c.outcome_advantage for c in (short_right, long_wrong)] == pytest.approx([1.341641, -1.341641], abs=1e-6)
    assert long_wrong.process_rewards == pytest.approx((-0.894427, 0.894427, 0.0), abs=1e-6)
    # Plain GRPO: r on all tokens.
    assert [advantages(c)[1] for c in OutcomeCredit(**EXACT)(judged)] == [1.341641, 0.447214, -0.447214, -1.341641]


def test_an_all_wrong_group_with_penalties_has_no_process_reward():
    """Rewards -1 and -2: r = 1 and -1. No thought is to blame for the outcome, which is the same in both."""
    judged = group(rewarded(incorrect("MUM"), 0.0), rewarded(incorrect("MUM"), -1.0))
    short, long = ThoughtCredit(**EXACT)(judged)
    assert (advantages(short), advantages(long)) == ([1.0] * 4, [-1.0] * 4)
    assert not any((*short.process_rewards, *long.process_rewards))


def test_an_incorrect_solution_above_its_group_is_not_rewarded_for_adopted_errors_twice():
    """Rewards: correct 1 - 3 = -2, incorrect -1: r = -1 and 1; outcome part +-1 / 0.5 = +-2, the penalty's -+3."""
    judged = group(rewarded(correct("CC"), -3.0), rewarded(incorrect("MUM"), 0.0))
    right, wrong = ThoughtCredit(**EXACT)(judged)
    assert advantages(right) == [-1.0] * 3
    assert advantages(wrong) == [1.0, 3.0, 1.0, 1.0]  # the adopted thought 2 below the others


def test_skipped_terms_and_solutions():
    """The third solution has no term: not in mean and deviation, no credit. The second has no penalty: its reward is -1."""
    nothing = dataclasses.replace(incorrect("MM"), reward=Reward(None, 0.0, {"outcome": None, "overlong": None}))
    judged = group(rewarded(correct("CC"), -1.0), rewarded(incorrect("MM"), None), nothing, undecided("AA"))
    # rewards 0 and -1
    assert reward_advantages(judged.rewarded, StandardisedBaseline(0, 0.0)) == [
        RewardAdvantage(1.0, 2.0),
        RewardAdvantage(-1.0, -2.0),
    ]
    credited = ThoughtCredit(**EXACT)(judged)
    assert [advantages(c) for c in credited] == [[1.0] * 3, [-1.0] * 3, [0.0] * 3, [0.0] * 3]
    alone = group(rewarded(correct("CC"), 0.0), nothing)
    assert not any(c.advantages.any() for c in ThoughtCredit()(alone))


def test_without_an_outcome_term_there_is_no_outcome_part():
    judged = group(rewarded(correct("CC"), -1.0, outcome=0.0), rewarded(incorrect("MUM"), 0.0, outcome=0.0))
    right, wrong = ThoughtCredit(**EXACT)(judged)
    assert (advantages(right), advantages(wrong)) == ([-1.0] * 3, [1.0] * 4)


solutions = st.one_of(
    st.text("CI", max_size=5).map(lambda labels: correct(labels + "C")),
    st.text("MU", max_size=5).map(lambda labels: incorrect(labels + "M")),
    st.just(undecided("AA")),
    st.just(solution("MM", Outcome.UNVERIFIABLE)),
)


@given(
    st.lists(solutions, min_size=2, max_size=9),
    st.sampled_from([ThoughtCredit, OutcomeCredit, StepCredit, UnadaptedThoughtCredit]),
    st.sampled_from([0, 1]),
    st.sampled_from([0.0, 1e-6]),
)
def test_one_outcome_term_gives_what_no_rewards_give(judged, kind, ddof, eps):
    """Bit for bit, whatever the group; the weighted sum and its record are the real ones."""
    rewards = WeightedRewards({"outcome": WeightedTerm(OutcomeReward())})
    plain = group(*judged)
    shaped = JudgedGroup(
        plain.problem,
        tuple(
            s
            if s.outcome is Outcome.UNDECIDED
            else dataclasses.replace(
                s, reward=rewards.reward({"outcome": 1.0 if s.outcome is Outcome.CORRECT else -1.0})
            )
            for s in plain.solutions
        ),
        plain.capability,
    )
    for a, b in zip(kind(ddof=ddof, eps=eps)(plain), kind(ddof=ddof, eps=eps)(shaped), strict=True):
        assert torch.equal(a.advantages, b.advantages)
        assert (a.outcome_advantage, a.process_rewards, a.thoughts) == (
            b.outcome_advantage,
            b.process_rewards,
            b.thoughts,
        )
    if len(plain.rewarded) > 1:
        assert all(
            r.total == r.outcome_part for r in reward_advantages(plain.rewarded, StandardisedBaseline(ddof, eps))
        )


@given(
    st.lists(st.tuples(st.booleans(), st.floats(-3, 3)), min_size=2, max_size=9),
    st.floats(0.1, 4),
)
def test_the_outcome_part_never_rewards_an_incorrect_solution(rows, weight):
    judged = group(
        *(
            dataclasses.replace(
                (correct if right else incorrect)("CC" if right else "MM"),
                reward=Reward(weight * (1.0 if right else -1.0) + rest, weight * (1.0 if right else -1.0), {}),
            )
            for right, rest in rows
        )
    )
    for s, reward in zip(judged.solutions, reward_advantages(judged.rewarded, StandardisedBaseline()), strict=True):
        assert reward.outcome_part >= 0 if s.outcome is Outcome.CORRECT else reward.outcome_part <= 0
