"""CAPO: the worked numbers, a naive reference, and solutions without usable labels."""

import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit.capo import CAPOCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, StopReason
from tests.credit.credit_cases import correct, group, incorrect, with_lengths

# Four tokens each: right and clean, right with its second quarter's pair wrong, wrong with its second half wrong.
THREE = group(correct("CC", lengths=[2, 2]), correct("IC", lengths=[2, 2]), incorrect("UM", lengths=[2, 2]))


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


def test_worked_numbers():
    # Token rewards 2222, 1122 (the wrong half comes first: the last step is the answer), 00-1-1: mean 1.
    clean, flawed, wrong = CAPOCredit()(THREE)
    assert advantages([clean, flawed, wrong]) == [[1.0] * 4, [0.0, 0.0, 1.0, 1.0], [-1.0, -1.0, -2.0, -2.0]]
    assert [c.outcome_advantage for c in (clean, flawed, wrong)] == [1.0, 1.0, -1.0]
    assert (flawed.process_rewards, wrong.process_rewards) == ((-1.0, 0.0), (0.0, -1.0))
    scaled = CAPOCredit(ddof=0, eps=0.0)(THREE)
    assert advantages(scaled) == [
        pytest.approx([0.8660] * 4, abs=1e-4),
        pytest.approx([0.0, 0.0, 0.8660, 0.8660], abs=1e-4),
        pytest.approx([-0.8660, -0.8660, -1.7321, -1.7321], abs=1e-4),
    ]


def test_the_baseline_is_weighted_by_tokens():
    """Lengths 1 and 9: the mean over tokens is (2 * 1 - 1 * 9) / 10 = -.7, that over solutions would be .5."""
    short, long = CAPOCredit()(group(correct("C", lengths=[1]), incorrect("M", lengths=[9])))
    assert short.advantages.tolist() == pytest.approx([2.7])
    assert long.advantages.tolist() == pytest.approx([-0.3] * 9)


def test_a_solution_without_tokens_is_in_no_mean():
    """Rewards 2 on one token and -1 on nine as above, whatever ended at once; of such solutions alone there is no mean."""
    empty = correct("C", lengths=[0])
    short, nothing, long = CAPOCredit()(group(correct("C", lengths=[1]), empty, incorrect("M", lengths=[9])))
    assert advantages([short, nothing, long]) == [pytest.approx([2.7]), [], pytest.approx([-0.3] * 9)]
    assert advantages(CAPOCredit()(group(empty, incorrect("M", lengths=[0])))) == [[], []]


@pytest.mark.parametrize(
    "judged",
    [incorrect("AAA"), incorrect("UMM", stop=StopReason.LENGTH), incorrect("UUM", answer_step=False)],
    ids=["abstained", "truncated", "no answer block"],
)
def test_without_usable_labels_there_is_no_penalty(judged):
    # Rewards 2 on 3 tokens and 0 on 4: mean 6/7.
    _, one = CAPOCredit()(group(correct("CC"), judged))
    assert one.advantages.tolist() == pytest.approx([-6 / 7] * 4)
    assert not any(one.process_rewards)


def test_wrong_steps_of_an_all_correct_group_teach():
    # 1, 2, 2, 2 and 2, 2: mean 11/6.
    flawed, clean = CAPOCredit()(group(correct("ICC"), correct("C")))
    assert flawed.advantages.tolist() == pytest.approx([-5 / 6, 1 / 6, 1 / 6, 1 / 6])
    assert clean.advantages.tolist() == pytest.approx([1 / 6] * 2)


@given(
    st.lists(with_lengths, min_size=2, max_size=5),
    st.sampled_from([(2.0, 1.0), (2.0, 0.1)]),
    st.sampled_from([None, 0, 1]),
)
def test_against_a_naive_reference(solutions, weights, ddof):
    outcome_weight, process_weight = weights
    rewards = [
        [
            outcome_weight * (s.outcome is Outcome.CORRECT) - process_weight * (label.value in ("incorrect", "matched"))
            for step, label in zip(s.verdict.steps, s.verdict.labels, strict=True)
            for _ in range(step.token_start, step.token_end)
        ]
        for s in solutions
    ]
    every = [r for own in rewards for r in own]
    mean, scale = statistics.fmean(every), 1.0
    if ddof is not None:
        scale = (statistics.pstdev if ddof == 0 else statistics.stdev)(every) + 1e-6
    for one, own in zip(CAPOCredit(*weights, ddof=ddof)(group(*solutions)), rewards, strict=True):
        expected = [0.0 if len(set(every)) == 1 else (r - mean) / scale for r in own]
        assert one.advantages.tolist() == pytest.approx(expected, abs=1e-4)


def test_shares_of_a_vote_weigh_the_penalty():
    """Critiques {2}, {2, 3}, {2}, {3} of three one-token steps before a two-token answer: 0, .75, .5, 0, 0 of the penalty."""
    judged = correct("CIIC")
    voted = replace(judged, verdict=replace(judged.verdict, wrong_shares=(0.0, 0.75, 0.5, 0.0)))
    one, other = CAPOCredit()(group(voted, correct("C")))
    mean = (5 * 2 - 1.25 + 2 * 2) / 7
    assert one.advantages.tolist() == pytest.approx([x - mean for x in (2, 1.25, 1.5, 2, 2)])
    assert other.advantages.tolist() == pytest.approx([2 - mean] * 2)
    assert one.process_rewards == (0.0, -0.75, -0.5, 0.0)
    # Neighbours of one label with different shares are not merged; a truncated solution has no penalty.
    assert len(one.thoughts) == 4
    cut = replace(voted, solution=replace(voted.solution, stop=StopReason.LENGTH))
    assert not any(CAPOCredit()(group(cut, incorrect("M")))[0].process_rewards)


@pytest.mark.parametrize("shares", [(0.5,), (0.0, 1.5), (0.0, float("nan"))])
def test_shares_that_do_not_fit_are_refused(shares):
    judged = correct("CC")
    broken = replace(judged, verdict=replace(judged.verdict, wrong_shares=shares))
    with pytest.raises(ValueError, match="expected one in"):
        CAPOCredit()(group(broken, correct("C")))


def test_settings_are_refused():
    with pytest.raises(ConfigError, match="weights must be positive"):
        CAPOCredit(outcome_weight=0.0)
    with pytest.raises(ConfigError, match="ddof must be 0"):
        CAPOCredit(ddof=2)
