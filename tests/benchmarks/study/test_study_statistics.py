"""Statistics of the study against hand-worked values, naive references and known properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.study.statistics import (
    MAX_EXACT,
    Curves,
    _times,
    area,
    bootstrap_curve,
    bootstrap_mean,
    hierarchical_mean,
    holm,
    percentile_interval,
    reached,
    sign_flip_test,
    solutions_to_reach,
)


def test_bootstrap_of_two_values_is_that_of_the_binomial():
    """Means of two draws from {0, 1}: 0, 1/2, 1 with 1/4, 1/2, 1/4, so the central 95% is all of it."""
    estimate = bootstrap_mean([0.0, 1.0])
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


def test_bootstrap_interval_is_near_the_normal_one_for_many_values():
    """Mean of 400 values 0 or 1 in equal parts: standard error 0.025, 1.96 of it is 0.049."""
    estimate = bootstrap_mean([0.0, 1.0] * 200)
    assert (estimate.low, estimate.high) == (pytest.approx(0.451, abs=0.004), pytest.approx(0.549, abs=0.004))


def test_equal_values_have_an_interval_of_no_width():
    assert bootstrap_mean([0.25] * 5).low == bootstrap_mean([0.25] * 5).high == 0.25


def test_percentile_interval_keeps_infinite_values_at_the_upper_end():
    """Of 0..100, ranks floor(2.5) and ceil(97.5): with ten infinite values above 90 the upper bound is infinite."""
    assert percentile_interval(np.arange(101.0)) == (2.0, 98.0)
    assert percentile_interval(np.array([*range(91), *[math.inf] * 10])) == (2.0, math.inf)
    assert percentile_interval(np.array([math.inf] * 3)) == (math.inf, math.inf)


def test_curve_resamples_whole_seeds():
    """Two seeds that differ by the same at each point: at every point both bounds are a seed's own curve."""
    mean, low, high = bootstrap_curve([[0.0, 0.2, 0.4], [0.2, 0.4, 0.6]])
    assert mean == pytest.approx([0.1, 0.3, 0.5])
    assert low == pytest.approx([0.0, 0.2, 0.4])
    assert high == pytest.approx([0.2, 0.4, 0.6])


def test_hierarchical_interval_is_at_least_that_of_either_level():
    scores = np.array([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    both = hierarchical_mean(scores)
    assert both.value == pytest.approx(6 / 12)
    for one in (bootstrap_mean(scores.mean(1)), bootstrap_mean(scores.mean(0))):
        assert both.high - both.low >= one.high - one.low


def test_hierarchical_interval_against_loops():
    scores = np.array([[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]])
    generator, means = np.random.default_rng(1), []
    for _ in range(4000):
        seeds, problems = generator.integers(2, size=2), generator.integers(3, size=3)
        means.append(np.mean([scores[s][p] for s in seeds for p in problems]))
    low, high = np.percentile(means, [2.5, 97.5])
    estimate = hierarchical_mean(scores)
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=0.09), pytest.approx(high, abs=0.09))


def test_differences_without_noise_between_problems_have_the_interval_of_seeds():
    seeds = [0.1, -0.2, 0.3]
    assert hierarchical_mean([[d] * 4 for d in seeds]).high == pytest.approx(bootstrap_mean(seeds).high)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1], 1.0),  # both signs are as far from 0
        ([0.1, 0.2, 0.3], 2 / 8),  # all of one sign: the smallest p
        ([0.1] * 5, 2 / 32),
        ([-0.1] * 5, 2 / 32),
        ([1.0, 2.0, -3.0], 1.0),  # mean 0
        # |sum| 4 of 1, 2, 3, 4 with signs ±: sums 10, 8, 6, 4, 4, 2, 2, 0 and their negatives; 5 of 8 are at least 4.
        ([1.0, 2.0, -3.0, 4.0], 10 / 16),
        ([0.0, 0.0], 1.0),
    ],
)
def test_sign_flips_by_hand(differences: list[float], p: float):
    assert sign_flip_test(differences) == pytest.approx(p)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=7))
@settings(max_examples=40, deadline=None)
def test_sign_flips_against_loops(differences: list[int]):
    observed, count = abs(sum(differences)), 0
    for signs in itertools.product((1, -1), repeat=len(differences)):
        count += abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed
    assert sign_flip_test([0.1 * d for d in differences]) == pytest.approx(count / 2 ** len(differences))


def test_many_pairs_are_tested_with_drawn_signs():
    n = MAX_EXACT + 4
    assert sign_flip_test([0.1] * n) < 0.001
    assert sign_flip_test([0.1, -0.1] * (n // 2)) == 1.0


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> 0.06 (monotone)."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_area_of_unequal_intervals():
    """(0 + 1)/2 * 1 + (1 + 0.5)/2 * 3 = 2.75 over a width of 4."""
    assert area([0, 1, 4], [0.0, 1.0, 0.5]) == pytest.approx(0.6875)


def test_reached_is_the_first_crossing():
    assert reached([0, 10, 20, 30], [0.0, 0.5, 0.2, 0.9], 0.25) == pytest.approx(5)
    assert reached([0, 10], [0.5, 0.2], 0.5) == 0
    assert reached([0, 10], [0.1, 0.2], 0.21) == math.inf


def curves(accuracy: list[list[float]]) -> Curves:
    table = np.array(accuracy)
    return Curves(np.tile(np.arange(table.shape[1]) * 100.0, (len(table), 1)), table)


def test_an_arm_that_is_twice_as_fast():
    """The reference is at 0.72 = 0.9 * 0.8 after 360 solutions, the arm after 180, on each seed."""
    reference = curves([[0.0, 0.2, 0.4, 0.6, 0.8]] * 3)
    time, ratio = solutions_to_reach(curves([[0.0, 0.4, 0.8, 0.8, 0.9]] * 3), reference)
    assert (time, ratio.value, ratio.low, ratio.high) == pytest.approx((180, 0.5, 0.5, 0.5))


def test_a_slower_arm_is_censored_where_it_does_not_get_there():
    """At 0.72: the reference after 180, seed 0 after 360, seed 1 never, nor resamples of it alone or the mean of both."""
    reference = curves([[0.0, 0.4, 0.8, 0.8, 0.8]] * 2)
    time, ratio = solutions_to_reach(curves([[0.0, 0.2, 0.4, 0.6, 0.8], [0.0, 0.1, 0.2, 0.3, 0.4]]), reference)
    assert time == math.inf
    assert (ratio.value, ratio.low, ratio.high) == (math.inf, pytest.approx(2.0), math.inf)


def test_seeds_are_resampled_for_both_arms_together():
    """Each seed's arm is its reference: whatever seeds are drawn, the ratio is 1."""
    both = curves([[0.0, 0.1, 0.3], [0.0, 0.6, 0.9], [0.2, 0.3, 0.35]])
    _, ratio = solutions_to_reach(both, both)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize("end", [0.4, 0.5])
def test_a_reference_that_does_not_learn_has_no_ratio(end: float):
    time, ratio = solutions_to_reach(curves([[0.5, 0.6]] * 2), curves([[0.5, end]] * 2))
    assert math.isnan(time)
    assert math.isnan(ratio.value)


def test_the_target_starts_at_the_references_start():
    """From 0.4 to 0.6: 90% of the gain is 0.58, which the arm has after 100 * 0.18 / 0.3 = 60 solutions."""
    time, ratio = solutions_to_reach(curves([[0.4, 0.7]] * 2), curves([[0.4, 0.6]] * 2))
    assert (time, ratio.value) == pytest.approx((60, 60 / 90))


def test_an_arm_that_equals_the_reference_but_for_noise_gets_there():
    """Accuracies that level off, noise 0.02 on each mean value: it is rare that one of two equal arms misses the other."""
    generator, clean = np.random.default_rng(3), np.array([0.2, 0.4, 0.55, 0.6, 0.6, 0.6])
    weights = np.array([1.0])
    draws = [curves([(clean + generator.normal(0, 0.02, 6)).tolist()]) for _ in range(400)]
    missed = [math.isinf(_times(*pair, weights)[0]) for pair in itertools.pairwise(draws)]
    assert sum(missed) / len(missed) < 0.05


def test_one_seed_has_no_interval():
    """How much seeds differ is not known, however many problems there are."""
    single = [bootstrap_mean([0.3]), hierarchical_mean([[0.0, 1.0]])]
    single.append(solutions_to_reach(curves([[0.0, 0.4]]), curves([[0.0, 0.2]]))[1])
    assert [e.value for e in single] == pytest.approx([0.3, 0.5, 0.5])
    assert all(math.isnan(e.low) and math.isnan(e.high) for e in single)
    mean, low, high = bootstrap_curve([[0.1, 0.2]])
    assert mean.tolist() == [0.1, 0.2]
    assert np.isnan([low, high]).all()
