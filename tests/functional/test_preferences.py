"""Advantages from preferences: the worked numbers of Think-RM, GRPO as a special case, matrices that are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.functional import preference_advantages, standardise_group


def test_worked_numbers():
    wins = torch.tensor([[0.0, 1, 1], [-1, 0, -1], [-1, 1, 0]])
    assert preference_advantages(wins).tolist() == pytest.approx([0.9428, -0.9428, 0.0], abs=1e-4)
    rewards = torch.tensor([2.0, 1.0, 0.0])
    assert preference_advantages(rewards[:, None] - rewards).tolist() == pytest.approx([1, 0, -1], abs=1e-5)


def test_without_a_preference_there_is_no_advantage():
    assert preference_advantages(torch.zeros(4, 4), eps=0.0).tolist() == [0.0] * 4


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=8))
def test_differences_of_rewards_are_grpo_with_ddof_1(values):
    rewards = torch.tensor(values, dtype=torch.float64)
    expected = standardise_group(rewards, ddof=1, eps=0.0)
    assert torch.allclose(preference_advantages(rewards[:, None] - rewards, eps=0.0), expected)


@pytest.mark.parametrize(
    "matrix",
    [torch.zeros(2, 3), torch.zeros(1, 1), torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([[0, 1e400], [-1e400, 0]])],
)
def test_matrices_are_checked(matrix):
    with pytest.raises(ValueError, match=r"expected a square matrix|must be finite and antisymmetric"):
        preference_advantages(matrix)
