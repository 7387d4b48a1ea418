"""Advantages: literal expected values worked by hand, and the closed form against the suffix sum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.functional.advantages import (
    closed_form_advantages,
    merge_runs,
    process_rewards,
    standardise_group,
    suffix_sum_advantages,
)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), rtol=0, atol=1e-6)


def test_standardise_sample_and_population():
    rewards = torch.tensor([1.0, 1.0, -1.0, -1.0])
    close(standardise_group(rewards, ddof=0, eps=0.0), [1.0, 1.0, -1.0, -1.0])
    # sample variance 4/3
    close(standardise_group(rewards, ddof=1, eps=0.0), [0.8660254, 0.8660254, -0.8660254, -0.8660254])
    close(standardise_group(rewards, ddof=0, eps=1.0), [0.5, 0.5, -0.5, -0.5])


def test_standardise_uneven_group():
    # mean -0.5, population variance 0.75
    close(standardise_group(torch.tensor([1.0, -1.0, -1.0, -1.0]), ddof=0, eps=0.0), [1.7320508] + [-0.5773503] * 3)


@pytest.mark.parametrize("value", [1.0, -1.0, 0.1])
def test_equal_rewards_give_exact_zeros(value):
    # The float32 mean of eight 0.1 is not 0.1: eps alone would leave -0.007, and no eps 0 / 0.
    for eps in (1e-6, 0.0):
        assert standardise_group(torch.full((8,), value), eps=eps).tolist() == [0.0] * 8


def test_standardise_refuses():
    with pytest.raises(ValueError, match="at least 2 rewards, got 1"):
        standardise_group(torch.ones(1))
    with pytest.raises(ValueError, match=r"shape \(G,\), got torch.float32 \(2, 2\)"):
        standardise_group(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"ddof must be 0 .* or 1"):
        standardise_group(torch.ones(4), ddof=2)
    with pytest.raises(ValueError, match="eps must be finite and not be negative"):
        standardise_group(torch.ones(4), eps=-1.0)


@pytest.mark.parametrize(
    ("labels", "spans"),
    [
        ([1, 1, 0, 1], [[0, 2], [2, 3], [3, 4]]),
        ([7], [[0, 1]]),
        ([2, 2, 2], [[0, 3]]),
        ([0, 1, 0], [[0, 1], [1, 2], [2, 3]]),
    ],
)
def test_merge_runs(labels, spans):
    assert merge_runs(torch.tensor(labels)).tolist() == spans


def test_merge_runs_of_nothing_and_of_floats():
    assert merge_runs(torch.zeros(0, dtype=torch.int64)).shape == (0, 2)
    with pytest.raises(ValueError, match="integer or bool labels"):
        merge_runs(torch.tensor([0.5]))


def test_process_rewards_last_thought_carries_none():
    assert process_rewards(torch.tensor([True, False, True]), 0.75).tolist() == [0.75, -0.75, 0.0]
    # incorrect solution: matched r, unmatched -r
    assert process_rewards(torch.tensor([False, True, False, True]), -0.5).tolist() == [0.5, -0.5, 0.5, 0.0]
    assert process_rewards(torch.tensor([True]), 0.75).tolist() == [0.0]


def test_suffix_sum_by_hand():
    # Thought rewards 0.75, -0.75, 1.25 (outcome), ends at tokens 1, 4, 5.
    process = torch.tensor([0.75, -0.75, 0.0], dtype=torch.float64)
    lengths = torch.tensor([2, 3, 1])
    assert suffix_sum_advantages(process, 1.25, lengths).tolist() == [1.25, 1.25, 0.5, 0.5, 0.5, 1.25]


def test_suffix_sum_of_unmerged_steps_piles_up():
    # What merging prevents: three wrong steps in a row, the first pays for all.
    process = torch.tensor([-1.0, -1.0, -1.0, 0.0])
    assert suffix_sum_advantages(process, 1.0, torch.ones(4, dtype=torch.int64)).tolist() == [-2.0, -1.0, 0.0, 1.0]


def test_thought_without_tokens():
    process = torch.tensor([-0.5, 0.5, -0.5, 0.0])
    assert suffix_sum_advantages(process, 1.0, torch.tensor([1, 0, 2, 1])).tolist() == [0.5, 0.5, 0.5, 1.0]


def test_closed_form_table():
    sides, lengths = torch.tensor([True, False, True]), torch.tensor([2, 1, 1])
    # correct: r and r - r_c
    assert closed_form_advantages(sides, 0.5, 2.0, lengths).tolist() == [0.5, 0.5, -1.5, 0.5]
    # incorrect: r and exactly 0
    r = -0.9354143466934853
    assert closed_form_advantages(sides, r, r, lengths).tolist() == [r, r, 0.0, r]


@given(
    sides=st.lists(st.booleans(), max_size=30).map(lambda s: [*s, True]),
    lengths=st.lists(st.integers(0, 5), min_size=31, max_size=31),
    outcome=st.floats(-3, 3),
    magnitude=st.floats(-3, 3),
)
def test_closed_form_equals_suffix_sum_on_merged_thoughts(sides, lengths, outcome, magnitude):
    step_sides, step_lengths = torch.tensor(sides), torch.tensor(lengths[: len(sides)])
    spans = merge_runs(step_sides)
    thought_sides = step_sides[spans[:, 0]]
    thought_lengths = torch.stack([step_lengths[a:b].sum() for a, b in spans.tolist()])
    reference = suffix_sum_advantages(process_rewards(thought_sides, magnitude), outcome, thought_lengths)
    fast = closed_form_advantages(thought_sides, outcome, magnitude, thought_lengths)
    torch.testing.assert_close(fast, reference, rtol=0, atol=1e-12)
    # Being a look-up, the table needs no merging.
    assert torch.equal(closed_form_advantages(step_sides, outcome, magnitude, step_lengths), fast)


@pytest.mark.parametrize(
    ("correct", "alpha"),
    [(4, 2.0), (5, 1.2393), (6, 0.7698), (7, 0.4321)],
)
def test_alpha_from_which_wrong_thoughts_are_pushed_down(correct, alpha):
    """G = 8, population std: alpha * acc > r from alpha = 2.0 / 1.24 / 0.77 / 0.43 on."""
    rewards = torch.tensor([1.0] * correct + [-1.0] * (8 - correct), dtype=torch.float64)
    r = standardise_group(rewards, ddof=0, eps=0.0)[0].item()
    sides, lengths = torch.tensor([False, True]), torch.tensor([1, 1])

    def wrong(a):
        return closed_form_advantages(sides, r, a * correct / 8, lengths)[0].item()

    assert wrong(alpha - 1e-3) > 0 > wrong(alpha + 1e-3)


def test_refusals_name_what_came():
    with pytest.raises(ValueError, match="must be True, got False"):
        process_rewards(torch.tensor([True, False]), 1.0)
    with pytest.raises(ValueError, match=r"T >= 1, got torch.bool \(0,\)"):
        process_rewards(torch.zeros(0, dtype=torch.bool), 1.0)
    with pytest.raises(ValueError, match=r"lengths of shape \(2,\)"):
        suffix_sum_advantages(torch.zeros(2), 1.0, torch.tensor([1]))
    with pytest.raises(ValueError, match=r"lengths of shape \(1,\)"):
        closed_form_advantages(torch.tensor([True]), 1.0, 1.0, torch.tensor([1, 1]))
