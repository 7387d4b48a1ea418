"""Importance weights for samples of an engine whose arithmetic is not the trainer's.

An engine with kernels or a precision of its own samples from mu, a neighbour of the policy pi_old that the trainer computes
with the same weights. ``c = pi_old / mu`` makes up for it, bounded so that no token dominates: truncated importance sampling
(Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025), per token or per sequence,
truncating or masking. The weights are constants of the loss (``importance_weights`` of ``grpo_loss``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def token_truncate(log_ratio: Tensor, cap: float) -> Tensor:
    """min(c_t, cap) for each token."""
    return log_ratio.exp().clamp(max=cap)


def token_mask(log_ratio: Tensor, cap: float) -> Tensor:
    """c_t, and 0 for tokens over the cap."""
    ratio = log_ratio.exp()
    return ratio.masked_fill(ratio > cap, 0.0)


def sequence_truncate(log_ratio: Tensor, cap: float) -> Tensor:
    """min(prod_t c_t, cap), the same for all tokens of the sequence."""
    return token_truncate(log_ratio.sum(), cap).expand_as(log_ratio)


def sequence_mask(log_ratio: Tensor, cap: float) -> Tensor:
    """prod_t c_t for all tokens, and 0 for a sequence over the cap."""
    return token_mask(log_ratio.sum(), cap).expand_as(log_ratio)


CORRECTIONS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "token_truncate": token_truncate,
    "token_mask": token_mask,
    "sequence_truncate": sequence_truncate,
    "sequence_mask": sequence_mask,
}


def importance_weights(trainer_logprobs: Tensor, engine_logprobs: Tensor, method: str, cap: float) -> Tensor:
    """Weights of one sampled sequence.

    Args:
        trainer_logprobs: (T,), of the sampled tokens by the trainer, with the weights that sampled them.
        engine_logprobs: (T,), by the engine, at the same temperature.
        method: a name in ``CORRECTIONS``.
        cap: the most a weight may be; over it, it is cut to the cap or to 0.

    Returns:
        (T,) float32, finite, without gradient.
    """
    if trainer_logprobs.shape != engine_logprobs.shape or trainer_logprobs.ndim != 1:
        raise ValueError(
            f"expected log-probs of one sequence, (T,) each, got {tuple(trainer_logprobs.shape)} and "
            f"{tuple(engine_logprobs.shape)}"
        )
    log_ratio = trainer_logprobs.detach().float() - engine_logprobs.detach().float()
    # exp of more than 88 is inf, and inf * 0 in a mask is NaN; the cap is far below.
    weights = CORRECTIONS[method](log_ratio.clamp(max=80.0), cap)
    return torch.nan_to_num(weights, nan=0.0)
