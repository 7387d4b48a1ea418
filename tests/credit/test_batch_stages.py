"""Batch stages: worked numbers, a naive reference over all tokens, lengths 1 and 9, and any division among ranks."""

import dataclasses
import itertools
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit import MeanBaseline, OutcomeCredit, ReturnCredit
from lit_tpgrpo.credit.batch import BatchStage, MaxScaling, StdScaling, Whitening
from lit_tpgrpo.credit.batch.token_moments import merge_moments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Reward
from tests.credit.credit_cases import correct, group, incorrect

STAGES = [Whitening(), StdScaling(), MaxScaling()]


def credited(*advantages):
    """Solutions with these token advantages."""
    template = ReturnCredit()(group(correct("C"), correct("C")))[0]
    return [dataclasses.replace(template, advantages=torch.tensor(a, dtype=torch.float32)) for a in advantages]


def rescaled(stage, solutions):
    assert isinstance(stage, BatchStage)
    return [a.tolist() for a in stage.rescale(solutions, [stage.summarise(s) for s in solutions])]


def rewarded(judged, reward):
    return dataclasses.replace(judged, reward=Reward(reward, reward, {"outcome": reward}))


def test_reinforce_plus_plus_with_the_group_mean_as_baseline():
    """Rewards 1, 0, 0 and 2, 3, 1 tokens: .6667 x 2 and -.3333 x 4 have mean 0 and sample deviation .5164."""
    lengths = [(correct("C", lengths=[2]), 1.0), (incorrect("M", lengths=[3]), 0.0), (incorrect("M", lengths=[1]), 0.0)]
    solutions = OutcomeCredit(baseline=MeanBaseline())(group(*(rewarded(s, r) for s, r in lengths)))
    moments = merge_moments([Whitening().summarise(s) for s in solutions], ddof=1)
    assert (moments.std, moments.mean) == (pytest.approx(0.5164, abs=1e-4), pytest.approx(0.0, abs=1e-7))
    first, second, third = rescaled(Whitening(), solutions)
    assert first == pytest.approx([1.2910] * 2, abs=1e-4)
    assert second == pytest.approx([-0.6455] * 3, abs=1e-4)
    assert third == pytest.approx([-0.6455], abs=1e-4)


def test_reinforce_plus_plus_without_one_weighs_tokens():
    """Rewards 1 on 9 tokens and -1 on one: mean .8, squared deviations 9 * .04 + 3.24 = 3.6, variance 3.6 / 9 = .4."""
    solutions = ReturnCredit()(group(correct("C", lengths=[9]), incorrect("M", lengths=[1])))
    assert [s.advantages.tolist() for s in solutions] == [[1.0] * 9, [-1.0]]
    long, short = rescaled(Whitening(), solutions)
    assert long == pytest.approx([0.2 / 0.4**0.5] * 9)
    assert short == pytest.approx([-1.8 / 0.4**0.5])


def test_returns_are_discounted_to_each_token():
    discounted, _ = ReturnCredit(gamma=0.5)(group(correct("C", lengths=[3]), incorrect("M")))
    assert discounted.advantages.tolist() == [0.25, 0.5, 1.0]
    with pytest.raises(ConfigError, match=r"gamma must be in \(0, 1\], got 0"):
        ReturnCredit(0.0)


def test_a_deviation_alone_keeps_signs():
    """Q-RM's numbers: (1, 2) and (-1, 0, 4) have population deviation 1.7205 and mean 1.2."""
    solutions = credited([1, 2], [-1, 0, 4])
    assert rescaled(StdScaling(), solutions) == [
        pytest.approx([0.5812, 1.1625], abs=1e-4),
        pytest.approx([-0.5812, 0.0, 2.3250], abs=1e-4),
    ]
    assert rescaled(Whitening(ddof=0), solutions) == [
        pytest.approx([-0.1162, 0.4650], abs=1e-4),
        pytest.approx([-1.2787, -0.6975, 1.6275], abs=1e-4),
    ]


def test_the_largest_suffix_sum_becomes_one():
    """PRIME's numbers: suffix sums (.2, -.2) and (.3, .2, -.1), divisor .3."""
    one, two = rescaled(MaxScaling(), credited([0.2, -0.2], [0.3, 0.2, -0.1]))
    assert one == pytest.approx([2 / 3, -2 / 3])
    assert two == pytest.approx([1.0, 2 / 3, -1 / 3])


def test_prime_whitens_the_sum_of_its_sources():
    """(1, .4) and (-1, -1, -1.4): mean -.4, sample deviation 1.0392."""
    moments = merge_moments([Whitening().summarise(s) for s in credited([1, 0.4], [-1, -1, -1.4])], ddof=1)
    assert (moments.std, moments.mean) == (pytest.approx(1.0392, abs=1e-4), pytest.approx(-0.4))
    one, two = rescaled(Whitening(), credited([1, 0.4], [-1, -1, -1.4]))
    assert one == pytest.approx([1.3472, 0.7698], abs=1e-4)
    assert two == pytest.approx([-0.5774, -0.5774, -0.9623], abs=1e-4)


def test_equal_advantages_have_no_deviation():
    alike = credited([0.1] * 9, [0.1])
    assert rescaled(Whitening(), alike) == [[0.0] * 9, [0.0]]
    assert rescaled(StdScaling(), alike) == [pytest.approx([0.1] * 9), pytest.approx([0.1])]
    assert rescaled(MaxScaling(), credited([0.0], [0.0])) == [[0.0], [0.0]]
    for stage in STAGES:
        assert rescaled(stage, []) == []
        assert len(rescaled(stage, credited([2.0]))) == 1


def test_tokens_outside_the_loss_are_in_no_statistics():
    masked = dataclasses.replace(credited([1.0, 100.0, 3.0])[0], loss_mask=torch.tensor([True, False, True]))
    assert rescaled(Whitening(ddof=0), [masked])[0][::2] == pytest.approx([-1.0, 1.0])
    nothing = dataclasses.replace(masked, loss_mask=torch.zeros(3, dtype=torch.bool))
    assert rescaled(MaxScaling(), [nothing]) == [[1.0, 100.0, 3.0]]


rows = st.lists(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=9), min_size=2, max_size=5)


@given(rows, st.sampled_from([0, 1]))
def test_against_a_naive_reference(values, ddof):
    tokens = [v for row in values for v in row]
    std = statistics.pstdev(tokens) if ddof == 0 else statistics.stdev(tokens)
    solutions = credited(*values)
    if std < 1e-3:
        return
    assert list(itertools.chain(*rescaled(Whitening(ddof), solutions))) == pytest.approx(
        [(v - statistics.fmean(tokens)) / std for v in tokens], rel=1e-3, abs=1e-4
    )
    assert list(itertools.chain(*rescaled(StdScaling(ddof), solutions))) == pytest.approx(
        [v / std for v in tokens], rel=1e-3
    )


@given(rows, st.sampled_from(STAGES), st.integers(0, 5))
def test_a_rank_computes_what_one_process_would(values, stage, cut):
    solutions = credited(*values)
    batch = [stage.summarise(s) for s in solutions]
    whole = [a.tolist() for a in stage.rescale(solutions, batch)]
    shares = [stage.rescale(share, batch) for share in (solutions[:cut], solutions[cut:])]
    assert [a.tolist() for share in shares for a in share] == whole


def test_settings_are_refused():
    with pytest.raises(ConfigError, match="ddof must be 0"):
        Whitening(ddof=2)
    with pytest.raises(ConfigError, match="eps must be finite"):
        StdScaling(eps=-1.0)
