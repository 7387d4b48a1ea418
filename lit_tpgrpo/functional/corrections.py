"""Importance weights that correct the mismatch between an engine's log-probs and the trainer's.

An engine with other kernels or precision samples from mu, which is close to the policy pi that the trainer computes with the
same weights. The weight ``c_t = pi(y_t) / mu(y_t)`` corrects this, bounded so that no token dominates. The weights are
constants of the loss (``LossInputs.importance_weights``), which divides by the number of all tokens, masked or not.

    token_truncate     min(max(c_t, floor), cap)                  Yao et al., "Your Efficient RL Framework Secretly Brings
    token_mask         c_t, 0 outside [floor, cap]                You Off-Policy RL Training" (2025); IcePop: mask, 0.5 to 5
    sequence_*         the same of (prod_t c_t)^(1/T)             the ratio of GSPO (arXiv 2507.18071); verl's ``geometric``
    product_*          the same of prod_t c_t                     TRL 1.16's ``sequence_*`` (default: mask, cap 3)

The product is the exact weight of a whole sequence, but useless for long ones: a difference of 0.001 in each of 8,192
log-probs makes it e^8.2 or e^-8.2, so ``product_mask`` drops the first and ``product_truncate`` almost drops the second. The
size of the geometric mean does not depend on the length; it is what "sequence" means here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def token_truncate(log_ratio: Tensor, floor: float, cap: float) -> Tensor:
    """Clamp each token's weight: min(max(c_t, floor), cap).

    >>> token_truncate(torch.tensor([4.0, 1.0, 0.25]).log(), floor=0.5, cap=2.0)
    tensor([2.0000, 1.0000, 0.5000])
    """
    return log_ratio.exp().clamp(floor, cap)


def token_mask(log_ratio: Tensor, floor: float, cap: float) -> Tensor:
    """Return c_t, with 0 for tokens outside [floor, cap].

    >>> token_mask(torch.tensor([4.0, 1.0, 0.25]).log(), floor=0.5, cap=2.0)
    tensor([0., 1., 0.])
    """
    ratio = log_ratio.exp()
    return ratio.masked_fill((ratio < floor) | (ratio > cap), 0.0)


def sequence_truncate(log_ratio: Tensor, floor: float, cap: float) -> Tensor:
    """Return the geometric mean of all c_t, clamped to [floor, cap], for all tokens of the sequence.

    >>> sequence_truncate(torch.tensor([4.0, 1.0]).log(), floor=0.0, cap=3.0)  # sqrt(4 * 1)
    tensor([2., 2.])
    """
    return token_truncate(log_ratio.mean(), floor, cap).expand_as(log_ratio)


def sequence_mask(log_ratio: Tensor, floor: float, cap: float) -> Tensor:
    """Return the geometric mean of all c_t for all tokens of the sequence; 0 if it is outside [floor, cap]."""
    return token_mask(log_ratio.mean(), floor, cap).expand_as(log_ratio)


def product_truncate(log_ratio: Tensor, floor: float, cap: float) -> Tensor:
    """Return prod_t c_t, clamped to [floor, cap], for all tokens of the sequence."""
    return token_truncate(log_ratio.sum(), floor, cap).expand_as(log_ratio)


def product_mask(log_ratio: Tensor, floor: float, cap: float) -> Tensor:
    """Return prod_t c_t for all tokens of the sequence; 0 if it is outside [floor, cap]."""
    return token_mask(log_ratio.sum(), floor, cap).expand_as(log_ratio)


CORRECTIONS: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "token_truncate": token_truncate,
    "token_mask": token_mask,
    "sequence_truncate": sequence_truncate,
    "sequence_mask": sequence_mask,
    "product_truncate": product_truncate,
    "product_mask": product_mask,
}


def importance_weights(
    trainer_logprobs: Tensor,
    engine_logprobs: Tensor,
    method: str | Callable[[Tensor, float, float], Tensor],
    cap: float,
    floor: float = 0.0,
    kept_mass: float = 1.0,
) -> Tensor:
    """Compute the importance weights of one sampled sequence.

    Args:
        trainer_logprobs: (T,) the trainer's log-probs of the sampled tokens, with the weights that sampled them.
        engine_logprobs: (T,) the engine's log-probs of the same tokens, at the same temperature.
        method: a name in ``CORRECTIONS``, or a function like those there: (T,) log c_t, floor and cap to (T,) weights.
        cap: maximum weight; a larger one is set to the cap or to 0, depending on the method.
        floor: minimum weight; a smaller one is set to the floor or to 0.
        kept_mass: estimate by ``truncation_sums``, if the engine's log-probs are those after ``top_p`` or ``top_k``.

    Returns:
        (T,) float32, finite, without gradient.
    """
    log_ratio = _log_ratio(trainer_logprobs, engine_logprobs) - torch.tensor(kept_mass).log()
    weigh = CORRECTIONS[method] if isinstance(method, str) else method
    return torch.nan_to_num(weigh(log_ratio, floor, cap), nan=0.0)


def truncation_sums(trainer_logprobs: Tensor, engine_logprobs: Tensor, cap: float) -> tuple[float, int]:
    """Return the sum of min(c_t, cap) over a sequence and its number of tokens; over a round, their quotient is the kept mass.

    ``top_p`` and ``top_k`` keep a set S of tokens with the probability Z = pi(S). An engine that returns log-probs of the
    truncated distribution gives pi(y) / Z, while the trainer's are over the whole vocabulary. So c_t = Z_t: every weight is
    below 1, and all gradients shrink by the kept mass, although this is not a numerical mismatch. E_mu[pi / mu] = Z, so the
    mean ratio estimates the kept mass. Dividing by it (self-normalised importance sampling; Owen, "Monte Carlo theory,
    methods and examples", chapter 9) gives weights of mean 1 that still distinguish tokens. The ratios are capped, because
    an unbounded one would reduce all others.
    """
    ratio = _log_ratio(trainer_logprobs, engine_logprobs).exp().clamp(max=cap)
    return float(torch.nan_to_num(ratio, nan=0.0).double().sum()), len(ratio)


def _log_ratio(trainer_logprobs: Tensor, engine_logprobs: Tensor) -> Tensor:
    if trainer_logprobs.shape != engine_logprobs.shape or trainer_logprobs.ndim != 1:
        raise ValueError(
            f"expected log-probs of one sequence, (T,) each, got {tuple(trainer_logprobs.shape)} and "
            f"{tuple(engine_logprobs.shape)}"
        )
    # exp of more than 88 is inf, and inf * 0 in a mask is NaN; caps are far below exp(80).
    return (trainer_logprobs.detach().float() - engine_logprobs.detach().float()).clamp(max=80.0)
