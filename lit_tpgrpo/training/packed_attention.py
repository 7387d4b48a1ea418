"""Causal attention of packed sequences, each within itself, with a prompt that several of them share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "packed_sdpa"
"""Name of the attention implementation in transformers' registry. None of its registry of masks: models then build no mask."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How one row of T tokens is made up.

    Attributes:
        segments: lengths of the row's pieces, which add up to T: a sequence, or a prompt, or a completion of such a prompt.
        sequences: indices of each sequence's segments: its own, or a shared prompt's and its completion's.
    """

    segments: tuple[int, ...]
    sequences: tuple[tuple[int, ...], ...]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    packing: Packing,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention sequence by sequence with torch's causal kernel.

    A shared prompt's queries are computed once for each sequence that has it, and kept of the first: that costs little beside
    the layers' products, which run over a prompt once.

    Args:
        module: the attention layer.
        query: (1, query heads, T, channels).
        key: (1, key heads, T, channels); ``value`` likewise.
        attention_mask: ignored, for ``packing`` says what is visible.
        dropout: probability; 0 in evaluation mode.
        scaling: factor of the scores.
        packing: how the row is made up.
        kwargs: what transformers passes on besides.

    Returns:
        (1, T, query heads, channels), and None for the weights.
    """
    # Not slices: the backward pass of each would write a gradient as large as the row.
    queries, keys, values = (tensor.split(list(packing.segments), dim=2) for tensor in (query, key, value))
    outputs: list[Tensor | None] = [None] * len(packing.segments)
    for indices in packing.sequences:
        q, k, v = (_joined(pieces, indices) for pieces in (queries, keys, values))
        output = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        pieces = output.transpose(1, 2).split([packing.segments[i] for i in indices], dim=1)
        for i, piece in zip(indices, pieces, strict=True):
            outputs[i] = piece if outputs[i] is None else outputs[i]
    return torch.cat([piece for piece in outputs if piece is not None], dim=1), None


def _joined(pieces: Sequence[Tensor], indices: Sequence[int]) -> Tensor:
    return pieces[indices[0]] if len(indices) == 1 else torch.cat([pieces[i] for i in indices], dim=2)


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def using_packed_attention(models: Sequence[PreTrainedModel]) -> Iterator[None]:
    """Use it in these models: around the backward pass, too, for gradient checkpointing calls the layers again there."""
    before = [model.config._attn_implementation for model in models]
    try:
        for model in models:
            model.set_attn_implementation(NAME)
        yield
    finally:
        for model, name in zip(models, before, strict=True):
            model.set_attn_implementation(name or "eager")
