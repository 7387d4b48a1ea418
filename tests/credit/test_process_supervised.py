"""Process-supervised GRPO: the worked numbers, a naive reference, and steps without scores."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit.process_supervised import ProcessSupervisedCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import StopReason
from tests.credit.credit_cases import correct, group, incorrect, with_lengths

EXACT = {"ddof": 0, "eps": 0.0}


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


# Scores (1, 1) and (1, -1, -1), affine to (1, 1) and (1, 0, 0): mean .6 and std .4899 (ddof 0) or .5477 (ddof 1) of those.
TWO = group(correct("CC", lengths=[1, 1]), incorrect("UMM", lengths=[1, 1, 1]))


@pytest.mark.parametrize(
    ("ddof", "std", "rewards", "expected"),
    [
        (0, 0.4899, [(0.8165, 0.8165), (0.8165, -1.2247, -1.2247)], [[1.6330, 0.8165], [-1.6330, -2.4495, -1.2247]]),
        (1, 0.5477, [(0.7303, 0.7303), (0.7303, -1.0954, -1.0954)], [[1.4606, 0.7303], [-1.4606, -2.1909, -1.0954]]),
    ],
)
def test_worked_numbers(ddof, std, rewards, expected):
    credited = ProcessSupervisedCredit(unmatched=1.0, ddof=ddof, eps=0.0)(TWO)
    # Rewards r(1) = (1 - mean) / std and r(0) = -mean / std say what mean and std of the scores 1 and 0 were taken.
    _, (high, low, _) = (one.process_rewards for one in credited)
    assert 1 / (high - low) == pytest.approx(std, abs=1e-4)
    assert -low / (high - low) == pytest.approx(0.6)
    for one, process, tokens in zip(credited, rewards, expected, strict=True):
        assert one.process_rewards == pytest.approx(process, abs=1e-4)
        assert one.advantages.tolist() == pytest.approx(tokens, abs=1e-4)
        assert one.outcome_advantage == 0.0


def test_an_unmatched_step_is_neutral_or_left_out():
    # Neutral: scores 1, 1, 0, -1, -1, mean 0, variance 4/5. Left out: 1, 1, -1, -1, mean 0, variance 1.
    one = 1 / math.sqrt(0.8)
    neutral = ProcessSupervisedCredit(**EXACT)(TWO)
    assert advantages(neutral) == [pytest.approx([2 * one, one]), pytest.approx([-2 * one, -2 * one, -one])]
    left_out = ProcessSupervisedCredit(unmatched=None, **EXACT)(TWO)
    assert advantages(left_out) == [[2.0, 1.0], [-2.0, -2.0, -1.0]]
    assert left_out[1].process_rewards == (0.0, -1.0, -1.0)


def test_the_mean_is_over_steps_whatever_their_tokens():
    """A step of 9 tokens counts as one of 1 token; a solution of 4 steps counts four times."""
    lengths = [9, 1, 9, 1]
    judged = group(correct("CCCC", lengths=lengths), incorrect("M", lengths=[9]))
    right, wrong = ProcessSupervisedCredit(**EXACT)(judged)
    # Scores 1, 1, 1, 1, -1: mean .6, std .8, so .5 and -2. By solution the mean would be 0.
    assert right.process_rewards == pytest.approx([0.5] * 4)
    assert right.advantages.tolist() == pytest.approx([2.0] * 9 + [1.5] + [1.0] * 9 + [0.5])
    assert wrong.advantages.tolist() == pytest.approx([-2.0] * 9)


UNLABELLED = [
    incorrect("AAA"),
    incorrect("UMM", stop=StopReason.LENGTH),
    incorrect("UUU", answer_step=False),
]


@pytest.mark.parametrize("judged", UNLABELLED, ids=["abstained", "truncated", "no answer block"])
def test_steps_without_usable_labels(judged):
    labelled = [correct("CC"), incorrect("UM")]
    alone = ProcessSupervisedCredit(**EXACT)(group(*labelled))
    *others, left_out = ProcessSupervisedCredit(**EXACT)(group(*labelled, judged))
    assert advantages(others) == advantages(alone)
    assert left_out.advantages.tolist() == [0.0] * 4
    # As one step by its outcome: scores 1, 1, 0, -1, -1.
    *_, counted = ProcessSupervisedCredit(outcome_if_unlabelled=True, **EXACT)(group(*labelled, judged))
    assert counted.advantages.tolist() == pytest.approx([-1 / math.sqrt(0.8)] * 4)
    assert sum(counted.process_rewards) == pytest.approx(-1 / math.sqrt(0.8))


@pytest.mark.parametrize("ddof", [0, 1])
def test_equal_scores_a_single_one_and_none_teach_nothing(ddof):
    credit = ProcessSupervisedCredit(unmatched=None, ddof=ddof, eps=0.0)
    for judged in (
        group(correct("CC"), correct("CCC")),
        group(correct("C"), incorrect("AA")),
        group(incorrect("AA"), correct("AAA")),
    ):
        assert not any(c.advantages.any() for c in credit(judged))


@given(st.lists(with_lengths, min_size=2, max_size=6), st.sampled_from([0.0, 0.5, None]), st.sampled_from([0, 1]))
def test_against_a_naive_reference(solutions, unmatched, ddof):
    scale = {"correct": 1.0, "incorrect": -1.0, "matched": -1.0, "unmatched": unmatched}
    scores = [[scale[label.value] for label in s.verdict.labels] for s in solutions]
    every = [s for own in scores for s in own if s is not None]
    mean = statistics.fmean(every)
    deviation = (statistics.pstdev if ddof == 0 else statistics.stdev)(every) if len(every) > 1 else 0.0
    credited = ProcessSupervisedCredit(unmatched=unmatched, ddof=ddof, eps=1e-6)(group(*solutions))
    for one, own in zip(credited, scores, strict=True):
        steps = one.judged.verdict.steps
        for t, advantage in enumerate(one.advantages.tolist()):
            ahead = [s for step, s in zip(steps, own, strict=True) if step.token_end > t and s is not None]
            assert advantage == pytest.approx(sum((s - mean) / (deviation + 1e-6) for s in ahead), abs=1e-4)


@pytest.mark.parametrize("value", [1.5, -2.0, float("nan")])
def test_settings_are_refused(value):
    with pytest.raises(ConfigError, match=r"unmatched must be in \[-1, 1\]"):
        ProcessSupervisedCredit(unmatched=value)
    with pytest.raises(ConfigError, match="ddof must be 0"):
        ProcessSupervisedCredit(ddof=2)
