"""Advantages from preferences among the solutions of a group (Think-RM, arXiv 2505.16265)."""

from __future__ import annotations

import torch
from torch import Tensor


def preference_advantages(preferences: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute the advantage of each solution from the matrix of preferences d, d_ij > 0 where i is better than j:

        A_i = (sum_j d_ij / n) / sqrt(sum_ij d_ij^2 / (2 n (n - 1)) + eps)

    With d_ij = r_i - r_j this is GRPO's (r_i - mean) / std with ddof 1, eps inside the root. Source: code
    IlgeeHong/Think-RM@2976ace7, ``core_algos.py``, without its factor by the length of the judge's text.

    Args:
        preferences: (n, n) floating point, antisymmetric; n at least 2.
        eps: added to the variance, 1e-6 in the source.

    Returns:
        (n,) of the same dtype; zeros if nothing is preferred to anything.

    Raises:
        ValueError: the matrix is not square, smaller than 2, or not antisymmetric and finite.

    >>> preference_advantages(torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 1.0], [-2.0, -1.0, 0.0]]), eps=0.0)
    tensor([ 1.,  0., -1.])
    """
    n = len(preferences)
    if preferences.shape != (n, n) or n < 2:
        raise ValueError(f"expected a square matrix of at least 2 solutions, got shape {tuple(preferences.shape)}")
    if not bool(torch.isfinite(preferences).all()) or not torch.equal(preferences, -preferences.T):
        raise ValueError("preferences must be finite and antisymmetric: what i gains on j, j loses on i")
    gains = preferences.sum(dim=1) / n
    if not bool(preferences.any()):
        return gains
    return gains / (preferences.square().sum() / (2 * n * (n - 1)) + eps).sqrt()
