"""The GRPO loss with one advantage per token, as a sum over tokens with explicit weights.

Sources: GRPO, DeepSeekMath (arXiv 2402.03300, eq. 3); separate clip bounds, DAPO (2503.14476, eq. 10).

    loss = sum over tokens t of  w_t * ( -c_t * min(ratio_t * A_t, clip(ratio_t, 1 - low, 1 + high) * A_t) + beta * kl_t )

The weights w_t are made from the counts of the *whole* optimizer step (all micro-batches of all ranks), so the loss of
a step is the plain sum of the losses of its pieces: how a step is cut, sharded or padded changes nothing. A trainer that
averages gradients over ranks multiplies by the number of ranks. All of it is element-wise, so tensors may be padded
(B, L) or packed (N,).

The KL term is one of ``functional.kl``, which also says what off-policy tokens do to each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_tpgrpo.functional.kl import KL_ESTIMATORS, KLName, kl_k3

Normalisation = Literal["token", "sequence", "constant"]


class BatchCounts(NamedTuple):
    """Counts of one whole optimizer step, over all micro-batches and ranks; dummies are not counted.

    ``max_length`` is the constant of Dr. GRPO (the token limit of a completion); the other modes do not read it.
    """

    tokens: int
    sequences: int
    max_length: int = 0


def _token_mean(lengths: Tensor, counts: BatchCounts) -> Tensor:
    """1 / tokens: every token counts alike (DAPO; TRL's "dapo", and "bnpo" over one micro-batch)."""
    return torch.full_like(lengths, 1.0 / counts.tokens, dtype=torch.float32)


def _sequence_mean(lengths: Tensor, counts: BatchCounts) -> Tensor:
    """1 / (sequences * own length): every solution counts alike (GRPO, eq. 3; TRL's "grpo")."""
    return 1.0 / (counts.sequences * lengths.clamp(min=1).float())


def _constant(lengths: Tensor, counts: BatchCounts) -> Tensor:
    """1 / (sequences * max_length): no length bias (Dr. GRPO, 2503.20783; TRL's "dr_grpo")."""
    return torch.full_like(lengths, 1.0 / (counts.sequences * counts.max_length), dtype=torch.float32)


NORMALISATIONS: Mapping[str, Callable[[Tensor, BatchCounts], Tensor]] = {
    "token": _token_mean,
    "sequence": _sequence_mean,
    "constant": _constant,
}


def sequence_weights(lengths: Tensor, normalisation: Normalisation, counts: BatchCounts) -> Tensor:
    """The weight of *each token* of each sequence; for packed tokens, ``.repeat_interleave(lengths)``.

    Args:
        lengths: (B,) int64, completion tokens of each whole sequence (0 for a dummy).
        normalisation: "token", "sequence" or "constant", see ``NORMALISATIONS``.
        counts: of the whole optimizer step.

    Returns:
        (B,) float32.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation must be one of {sorted(NORMALISATIONS)}, got {normalisation!r}")
    if counts.tokens < 1 or counts.sequences < 1:
        raise ValueError(f"expected at least one token and one sequence in the optimizer step, got {counts}")
    if normalisation == "constant" and counts.max_length < 1:
        raise ValueError(f'normalisation "constant" needs max_length >= 1 (the token limit), got {counts}')
    return NORMALISATIONS[normalisation](lengths, counts)


def token_weights(mask: Tensor, normalisation: Normalisation, counts: BatchCounts) -> Tensor:
    """``sequence_weights`` spread over a padded micro-batch: (B, L) float32, zero outside the (B, L) bool mask."""
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(f"expected a bool mask of shape (B, L), got {mask.dtype} {tuple(mask.shape)}")
    return sequence_weights(mask.sum(dim=1), normalisation, counts).unsqueeze(1) * mask


@dataclass(frozen=True, slots=True)
class LossSums:
    """Detached 0-d sums over the tokens of one piece; pieces add up with ``+``, ranks with ``reduce``.

    ``policy_loss`` and ``kl_loss`` are weighted and add up to the loss. The rest count or sum tokens alike.
    ``clipped_low`` / ``clipped_high`` count tokens whose gradient the clip removed: ratio below 1 - low with a negative
    advantage, above 1 + high with a positive one. ``kl_old`` is k3 of the sampling policy, ``kl_ref`` the chosen estimator
    against the reference (0 without one).
    """

    tokens: Tensor
    policy_loss: Tensor
    kl_loss: Tensor
    advantage: Tensor
    ratio: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    kl_old: Tensor
    kl_ref: Tensor
    ratio_max: Tensor

    def _sums(self) -> Tensor:
        return torch.stack([getattr(self, f.name) for f in fields(self) if f.name != "ratio_max"])

    def __add__(self, other: LossSums) -> LossSums:
        sums = self._sums() + other._sums()
        return LossSums(*sums.unbind(), ratio_max=torch.maximum(self.ratio_max, other.ratio_max))

    def reduce(self, all_sum: Callable[[Tensor], Tensor], all_max: Callable[[Tensor], Tensor]) -> LossSums:
        """Over ranks, in two collectives: ``all_sum`` gets a new (9,) tensor, ``all_max`` a 0-d one."""
        return LossSums(*all_sum(self._sums()).unbind(), ratio_max=all_max(self.ratio_max.clone()))

    def means(self) -> dict[str, Tensor]:
        """Per-token means under the names above; the two losses, the token count and ``ratio_max`` as they are."""
        kept = ("tokens", "policy_loss", "kl_loss", "ratio_max")
        tokens = self.tokens.clamp(min=1)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value if name in kept else value / tokens for name, value in values.items()}


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    *,
    ref_logprobs: Tensor | None = None,
    kl: KLName = "k3",
    beta: float = 0.0,
    importance_weights: Tensor | None = None,
) -> tuple[Tensor, LossSums]:
    """The loss of one micro-batch (see the module docstring). All tensors have one shape, (B, L) or (N,).

    Args:
        logprobs: of the policy in training; the gradient flows through these alone.
        old_logprobs: of the policy that sampled, at the same temperature.
        advantages: one per token.
        mask: bool, True on completion tokens. What stands elsewhere is never read (it may be NaN).
        weights: from ``token_weights`` or ``sequence_weights``.
        clip_low: the ratio is clipped from below at 1 - clip_low.
        clip_high: and from above at 1 + clip_high.
        ref_logprobs: of the reference, or None for no KL term. With beta 0 the KL is only measured.
        kl: the estimator of the KL to the reference, a name in ``functional.kl.KL_ESTIMATORS``.
        beta: weight of the KL term.
        importance_weights: c_t, e.g. truncated ratios of the trainer's to the engine's old log-probs; taken as
            constants, and not applied to the KL term.

    Returns:
        The weighted sum (0-d, differentiable even where the mask is empty) and its ``LossSums``.
    """
    tensors = {
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "mask": mask,
        "weights": weights,
        "ref_logprobs": ref_logprobs,
        "importance_weights": importance_weights,
    }
    _check_tensors(logprobs, tensors)
    _check_settings(clip_low, clip_high, kl, beta, ref_logprobs)
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    zero = torch.zeros((), dtype=dtype, device=logprobs.device)

    def on_tokens(x: Tensor) -> Tensor:
        # Before any exp: 0 * inf in a masked position would make the gradient NaN.
        return torch.where(mask, x.to(dtype), zero)

    logp, adv, w = on_tokens(logprobs), on_tokens(advantages.detach()), on_tokens(weights.detach())
    old = on_tokens(old_logprobs.detach())
    ratio = (logp - old).exp()
    surrogate = torch.minimum(ratio * adv, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * adv)
    if importance_weights is not None:
        surrogate = surrogate * on_tokens(importance_weights.detach())
    policy_loss = -(w * surrogate).sum()
    per_token_kl = None if ref_logprobs is None else KL_ESTIMATORS[kl](logp, old, on_tokens(ref_logprobs.detach()))
    kl_loss = zero if per_token_kl is None or beta == 0.0 else beta * (w * per_token_kl).sum()

    with torch.no_grad():
        real_ratio = torch.where(mask, ratio, zero)
        sums = LossSums(
            tokens=mask.sum().to(dtype),
            policy_loss=policy_loss.detach(),
            kl_loss=kl_loss.detach(),
            advantage=adv.sum(),
            ratio=real_ratio.sum(),
            clipped_low=(mask & (ratio < 1.0 - clip_low) & (adv < 0)).sum().to(dtype),
            clipped_high=(mask & (ratio > 1.0 + clip_high) & (adv > 0)).sum().to(dtype),
            kl_old=kl_k3(old, logp).sum(),
            kl_ref=zero if per_token_kl is None else per_token_kl.detach().sum(),
            ratio_max=real_ratio.max() if real_ratio.numel() else zero,
        )
    return policy_loss + kl_loss, sums


def _check_tensors(logprobs: Tensor, others: Mapping[str, Tensor | None]) -> None:
    if not logprobs.is_floating_point():
        raise ValueError(f"expected floating point logprobs, got {logprobs.dtype}")
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.shape != logprobs.shape:
            raise ValueError(
                f"expected {name} of the shape of logprobs, {tuple(logprobs.shape)}, got {tuple(tensor.shape)}"
            )
        if name == "mask" and tensor.dtype != torch.bool:
            raise ValueError(f"expected a bool mask, got {tensor.dtype}")
        if name != "mask" and not tensor.is_floating_point():
            raise ValueError(f"expected floating point {name}, got {tensor.dtype}")


def _check_settings(clip_low: float, clip_high: float, kl: str, beta: float, ref_logprobs: Tensor | None) -> None:
    if not 0.0 <= clip_low <= 1.0 or clip_high < 0.0:
        raise ValueError(f"expected 0 <= clip_low <= 1 and clip_high >= 0, got {clip_low} and {clip_high}")
    if kl not in KL_ESTIMATORS:
        raise ValueError(f"kl must be one of {sorted(KL_ESTIMATORS)}, got {kl!r}")
    if beta < 0.0:
        raise ValueError(f"beta must not be negative, got {beta}")
    if beta > 0.0 and ref_logprobs is None:
        raise ValueError(f"beta={beta} needs ref_logprobs, got None: pass them, or set beta to 0")
