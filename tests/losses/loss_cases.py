"""Every loss of the package with settings that act, and an optimizer step in float64 on which they do."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lit_tpgrpo.functional.aggregation import BatchCounts, sequence_weights
from lit_tpgrpo.functional.kl import KLName
from lit_tpgrpo.losses import (
    CISPO,
    GSPO,
    SAPO,
    VESPO,
    AdaptiveEntropyBonus,
    ClippedSurrogate,
    DPPOTotalVariation,
    DualClip,
    EntropyBonus,
    GSPOToken,
    LossInputs,
    MiniRL,
    StaleNegatives,
    TokenLoss,
    TopEntropy,
    WrappedLoss,
    loss_inputs,
)

LENGTHS = (5, 1, 3, 7, 2, 4)
COUNTS = BatchCounts(sum(LENGTHS), len(LENGTHS), 10)
LOSSES: list[TokenLoss] = [
    ClippedSurrogate(0.1, 0.15),
    DualClip(0.1, 0.15, 1.3),
    GSPO(0.05, 0.07),
    GSPOToken(0.05, 0.07),
    CISPO(cap=1.2),
    SAPO(),
    VESPO(),
    DPPOTotalVariation(0.03, 0.05),
    MiniRL(0.1, 0.15, cap=1.2),
]
WRAPPED: list[TokenLoss] = [
    EntropyBonus(SAPO(), 0.1),
    AdaptiveEntropyBonus(SAPO(), target=1.0, coefficient=0.1),
    TopEntropy(ClippedSurrogate(0.1, 0.15), 0.5),
    StaleNegatives(GSPOToken(0.05, 0.07), 0.05),
    StaleNegatives(TopEntropy(EntropyBonus(VESPO(), 0.1), 0.5), 0.05),
]
THRESHOLD = torch.tensor(0.7, dtype=torch.float64)  # of the entropies below, about their median
STATE = {"coefficient": 0.1, "entropy": 0.7}  # the bonus is on


def with_kl(loss: TokenLoss, estimator: KLName = "k3_unbiased") -> TokenLoss:
    """The loss with a KL term; of one around another, that of the inner one."""
    if isinstance(loss, WrappedLoss):
        return replace(loss, loss=with_kl(loss.loss, estimator))
    return replace(loss, kl_beta=0.1, kl_estimator=estimator)  # pyright: ignore[reportArgumentType]


def a_step(loss: TokenLoss, seed: int = 0, spread: float = 0.3) -> dict[str, Tensor]:
    """Packed float64 tokens of six sequences; advantages of tokens, or of sequences for the loss that needs these."""
    g = torch.Generator().manual_seed(seed)
    lengths, n = torch.tensor(LENGTHS), sum(LENGTHS)
    row = torch.arange(len(LENGTHS)).repeat_interleave(lengths)

    def draw(count: int = n) -> Tensor:
        return torch.randn(count, generator=g, dtype=torch.float64)

    old = -0.2 - draw().abs()
    return {
        "logprobs": old + spread * draw(),
        "old_logprobs": old,
        "advantages": draw(len(LENGTHS))[row] if isinstance(loss, GSPO) else draw(),
        "ref_logprobs": old + spread * draw(),
        "importance_weights": 1 + 0.1 * draw(),
        "entropy": draw().abs(),
        "row": row,
        "lengths": lengths,
    }


def inputs_of(step: dict[str, Tensor], normalisation: str = "token", **changes: Tensor) -> LossInputs:
    step = {**step, **changes}
    weights = sequence_weights(step["lengths"], normalisation, COUNTS).double()[step["row"]]  # pyright: ignore
    return loss_inputs(
        step["logprobs"].clone().requires_grad_(),
        weights=weights,
        entropy_threshold=THRESHOLD,
        state=STATE,
        **{k: v for k, v in step.items() if k != "logprobs"},
    )
