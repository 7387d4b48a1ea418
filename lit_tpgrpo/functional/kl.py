"""Estimators of KL(policy || reference) from log-probs of single sampled tokens.

Sources: k1, k2, k3: Schulman, "Approximating KL Divergence" (2020); multiplied by the ratio: DeepSeek-V3.2 (arXiv 2512.02556).

Here p is the policy in training, q the reference and p_old the policy that sampled. Each estimator is a term of the loss, so
the expectation of its *gradient* matters. On-policy (p_old = p), it is that of KL(p || q) for k2, that of the forward
KL(q || p) for k3, and zero for k1. Off-policy, the expectation of ``k1``, ``k2`` and ``k3`` is over p_old, as in GRPO
(DeepSeekMath, arXiv 2402.03300, eq. 4): the closer the two policies, the smaller that bias. ``k2_unbiased`` and
``k3_unbiased`` are multiplied by p / p_old, at most e^20, and have the gradient of KL(p || q) wherever p_old has support.
TRL 1.16 uses ``k3_unbiased`` by default (``use_bias_correction_kl``), and ``k3`` with that option off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from lit_tpgrpo.functional.surrogates import policy_ratio

KLName = Literal["k1", "k2", "k3", "k2_unbiased", "k3_unbiased"]


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute k1 = log p - log q: unbiased value, high variance, may be negative; a metric rather than a loss.

    As a loss, its gradient is grad log p, whose expectation under p is zero: on-policy it adds noise and does not constrain
    the policy. (It would work inside a reward; here it is differentiated.)
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute k2 = (log p - log q)^2 / 2: biased value; on-policy, its expected gradient is that of KL(p || q).

    >>> import torch
    >>> kl_k2(torch.tensor([-1.0]), torch.tensor([-3.0]))  # (-1 + 3)^2 / 2
    tensor([2.])
    """
    return (logprobs - ref_logprobs).square() / 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute k3 = q/p - 1 - log(q/p), as in GRPO: unbiased value, never negative, low variance near p = q.

    On-policy, the expectation of its gradient, (1 - q/p) grad log p, is that of the *forward* KL(q || p).

    >>> import torch
    >>> kl_k3(torch.tensor([0.25]).log(), torch.tensor([0.5]).log())  # q/p = 2: 2 - 1 - log 2
    tensor([0.3069])
    """
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def kl_k2_unbiased(logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute sg(p / p_old) * k2: biased value; its expected gradient is that of KL(p || q), off-policy too.

    The ratio is a constant (sg: stop gradient), because the gradient of k2, (log p - log q) grad log p, is already the KL's.
    """
    return policy_ratio(logprobs, old_logprobs).detach() * kl_k2(logprobs, ref_logprobs)


def kl_k3_unbiased(logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute p / p_old * k3: its expected value and gradient are those of KL(p || q), off-policy too.

    The ratio is differentiated, so the gradient differs from k3's even on-policy, where the ratio is 1.
    """
    return policy_ratio(logprobs, old_logprobs) * kl_k3(logprobs, ref_logprobs)


KL_ESTIMATORS: Mapping[KLName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "k1": lambda logprobs, old_logprobs, ref_logprobs: kl_k1(logprobs, ref_logprobs),
    "k2": lambda logprobs, old_logprobs, ref_logprobs: kl_k2(logprobs, ref_logprobs),
    "k3": lambda logprobs, old_logprobs, ref_logprobs: kl_k3(logprobs, ref_logprobs),
    "k2_unbiased": kl_k2_unbiased,
    "k3_unbiased": kl_k3_unbiased,
}
"""Called with (logprobs, old_logprobs, ref_logprobs) of one shape; only the first is differentiated."""


class KLPenalty(NamedTuple):
    """``loss``, 0-d and differentiable, and the ``per_token`` estimates without gradient; both 0 without a reference."""

    loss: Tensor
    per_token: Tensor


def kl_penalty(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    weights: Tensor,
    estimator: KLName,
    beta: float,
) -> KLPenalty:
    """Compute the KL term of a loss, ``beta * sum_t w_t * kl_t``; all tensors have one shape.

    With beta 0 it is only measured.

    Raises:
        ValueError: beta is positive and there are no ``ref_logprobs``.
    """
    if ref_logprobs is None:
        if beta > 0:
            raise ValueError(
                f"a KL term of weight {beta} needs ref_logprobs, got None: pass them, or set the weight to 0"
            )
        return KLPenalty(weights.new_zeros(()), weights.new_zeros(weights.shape))
    kl = KL_ESTIMATORS[estimator](logprobs, old_logprobs, ref_logprobs)
    loss = beta * (weights * kl).sum() if beta else weights.new_zeros(())
    return KLPenalty(loss, kl.detach())
