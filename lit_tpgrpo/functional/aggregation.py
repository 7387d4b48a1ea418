"""Weights that average a loss over the tokens of a whole optimizer step.

They are computed from the counts of the *whole* step (all micro-batches of all ranks), so the loss of a step is the plain
sum of the losses of its pieces: how a step is cut, sharded or padded changes nothing. A trainer that averages gradients over
ranks multiplies by the number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Normalisation = Literal["token", "sequence", "sequence_sum", "constant"]


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
    """1 / (sequences * length): every solution counts alike (GRPO, eq. 3; TRL's "grpo")."""
    return 1.0 / (counts.sequences * lengths.clamp(min=1).float())


def _sequence_sum(lengths: Tensor, counts: BatchCounts) -> Tensor:
    """1 / sequences: a solution weighs as much as it has tokens, and the step's length changes no weight (TRL's "luspo")."""
    return torch.full_like(lengths, 1.0 / counts.sequences, dtype=torch.float32)


def _constant(lengths: Tensor, counts: BatchCounts) -> Tensor:
    """1 / (sequences * max_length): no length bias (Dr. GRPO, 2503.20783; TRL's "dr_grpo")."""
    return torch.full_like(lengths, 1.0 / (counts.sequences * counts.max_length), dtype=torch.float32)


NORMALISATIONS: Mapping[str, Callable[[Tensor, BatchCounts], Tensor]] = {
    "token": _token_mean,
    "sequence": _sequence_mean,
    "sequence_sum": _sequence_sum,
    "constant": _constant,
}


def sequence_weights(lengths: Tensor, normalisation: Normalisation, counts: BatchCounts) -> Tensor:
    """Return the weight of *each token* of each sequence; for packed tokens, ``.repeat_interleave(lengths)``.

    Args:
        lengths: (B,) int64, completion tokens of each whole sequence (0 for a dummy).
        normalisation: "token", "sequence", "sequence_sum" or "constant", see ``NORMALISATIONS``.
        counts: of the whole optimizer step.

    Returns:
        (B,) float32.

    Raises:
        ValueError: the name is unknown, or a count that it divides by is below 1.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation must be one of {sorted(NORMALISATIONS)}, got {normalisation!r}")
    if counts.tokens < 1 or counts.sequences < 1:
        raise ValueError(f"expected at least one token and one sequence in the optimizer step, got {counts}")
    if normalisation == "constant" and counts.max_length < 1:
        raise ValueError(f'normalisation "constant" needs max_length >= 1 (the token limit), got {counts}')
    return NORMALISATIONS[normalisation](lengths, counts)


def token_weights(mask: Tensor, normalisation: Normalisation, counts: BatchCounts) -> Tensor:
    """Spread ``sequence_weights`` over a padded micro-batch: (B, L) float32, zero outside the (B, L) bool mask."""
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(f"expected a bool mask of shape (B, L), got {mask.dtype} {tuple(mask.shape)}")
    return sequence_weights(mask.sum(dim=1), normalisation, counts).unsqueeze(1) * mask


def step_quantile(values: Tensor, quantile: float) -> Tensor:
    """Return the smallest of (N,) values at or above a quantile: at least ``(1 - quantile) * (N - 1)`` of them are not below.

    ``values >= step_quantile(values, q)`` are those at or above ``torch.quantile(values, q)``, which interpolates, and takes
    no more than 2^24 values.

    >>> step_quantile(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]), 0.7)  # between 3 and 4
    tensor(4.)
    """
    # The subtrahend is for products like 0.8 * 10, which rounding may put above 8.
    return values.kthvalue(math.ceil(quantile * (len(values) - 1) - 1e-6) + 1).values
