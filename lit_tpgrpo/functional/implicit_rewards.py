"""Implicit process rewards (PRIME, arXiv 2502.01456): what a language model's log-probs say of the outcome, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def leave_one_out_by_means(rewards: Sequence[Tensor]) -> list[Tensor]:
    """Compare the token rewards of each solution of a group with the other solutions' means.

    With m_i the mean of the token rewards of solution i, of n:

        x_t <- x_t n / (n - 1) - sum_i m_i / (n - 1)

    so that the mean over the tokens of solution i is m_i less the mean of the others' m. Source: code
    PRIME-RL/PRIME@18ad596f, ``core_algos.py``.

    Args:
        rewards: (L_i,) floating point each, none empty; at least two.

    Raises:
        ValueError: there are fewer, or one is empty.

    >>> [x.tolist() for x in leave_one_out_by_means([torch.tensor([1.0, 0.0]), torch.tensor([0.5])])]
    [[1.0, -1.0], [0.0]]
    """
    n = len(rewards)
    if n < 2 or not all(len(x) for x in rewards):
        raise ValueError(
            f"expected the token rewards of two solutions or more, none empty, got {[len(x) for x in rewards]}"
        )
    baseline = torch.stack([x.mean() for x in rewards]).sum() / (n - 1)
    return [x * (n / (n - 1)) - baseline for x in rewards]


def implicit_reward_loss(log_ratio_sums: Tensor, correct: Tensor, beta: float) -> Tensor:
    """Compute the cross-entropy of sigma(beta sum_t q_t) with the outcome, of each solution.

    q_t = log pi_phi(y_t) - log pi_ref(y_t), summed over the solution's tokens. Source: PRIME, as above
    (``compute_ce_dpo_loss_rm``).

    Args:
        log_ratio_sums: (B,) sum_t q_t, differentiable.
        correct: (B,) 1 for a correct solution, else 0; of the same dtype.
        beta: 0.05 in the source.

    Returns:
        (B,) losses.

    >>> implicit_reward_loss(torch.tensor([0.2, 0.3]), torch.tensor([1.0, 0.0]), 0.05)
    tensor([0.6882, 0.7007])
    """
    return torch.nn.functional.binary_cross_entropy_with_logits(beta * log_ratio_sums, correct, reduction="none")
