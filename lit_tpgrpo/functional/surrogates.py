"""Policy-gradient terms of single tokens: what the losses of ``lit_tpgrpo.losses`` share.

kappa_t = pi(y_t) / pi_old(y_t) is the ratio of the policy in training to the one that sampled. All tensors have one shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""verl's bound. exp of more than 88 is inf in float32, and its gradient times the 0 of a clip would be NaN."""


def policy_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Compute kappa = exp(log pi - log pi_old), at most e^20 (then without gradient)."""
    return (logprobs - old_logprobs).clamp(max=MAX_LOG_RATIO).exp()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """Compute min(kappa * A, clip(kappa, 1 - clip_low, 1 + clip_high) * A), which is maximised (PPO, arXiv 1707.06347).

    >>> clipped_surrogate(torch.tensor([0.5, 1.5, 0.5, 1.5]), torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2, 0.2)
    tensor([ 0.5000,  1.2000, -0.8000, -1.5000])
    """
    return torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages)


def weighted_score(logprobs: Tensor, weight: Tensor, advantages: Tensor) -> Tensor:
    """Compute sg(weight) * A * log pi, which is maximised: REINFORCE with a constant weight (sg: stop gradient)."""
    return weight.detach() * advantages * logprobs


def gamma_log_weight(log_w: Tensor, k: Tensor, lam: Tensor) -> Tensor:
    """Compute log phi(w) = lam + k * log w - lam * w, a gamma density scaled so that phi(1) = 1 (VESPO, arXiv 2602.10693).

    >>> w, two, three = torch.tensor([0.5, 1.0, 1.5]), torch.tensor(2.0), torch.tensor(3.0)
    >>> gamma_log_weight(w.log(), k=two, lam=three).exp()
    tensor([1.1204, 1.0000, 0.5020])
    """
    return lam + k * log_w - lam * log_w.exp()
