"""Micro-batches: the sequences of one forward pass, as the model takes them and with their completion tokens laid out flat.

How sequences are put together is a ``MicroBatching``: padded (``padding.py``) or packed (``packing.py``). ``choose_batching``
(``batching_choice.py``) takes the one that suits a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_tpgrpo.records import TrainingSequence


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """S sequences in one forward pass, and their N completion tokens laid out flat.

    Attributes:
        model_inputs: arguments of the base model, which returns hidden states (B, L, H).
        predictors: (N,) int64 indices into these, flattened to (B * L, H): what predicts each target.
        row: (N,) int64, index of each token's sequence, below S.
        lengths: (S,) int64, completion tokens of each sequence.
        targets: (N,) int64 completion tokens, sampled with ``old_logprobs``; the others are (N,) likewise.
    """

    model_inputs: Mapping[str, Any]
    predictors: Tensor
    row: Tensor
    lengths: Tensor
    targets: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    importance_weights: Tensor | None = None
    loss_mask: Tensor | None = None


class MicroBatching(Protocol):
    """Cuts sequences into micro-batches under a token budget. Results do not depend on the way, beyond rounding."""

    def slices(self, sequences: Sequence[TrainingSequence], budget: int) -> list[list[int]]:
        """Return the indices of each micro-batch's sequences; a sequence longer than the budget gets one to itself."""
        ...

    def collate(self, sequences: Sequence[TrainingSequence]) -> MicroBatch:
        """Put sequences into one micro-batch, on their device, in their order."""
        ...

    def ready(self, models: Sequence[PreTrainedModel]) -> AbstractContextManager[None]:
        """Return a context around all forward and backward passes of these models on micro-batches."""
        ...


def flat_micro_batch(
    model_inputs: Mapping[str, Any], predictors: Sequence[Tensor], sequences: Sequence[TrainingSequence]
) -> MicroBatch:
    """Build a micro-batch from the model's arguments and each sequence's predictors, which are joined."""
    device = sequences[0].completion_ids.device
    lengths = torch.tensor([len(s.completion_ids) for s in sequences], device=device)
    return MicroBatch(
        model_inputs=model_inputs,
        predictors=torch.cat(list(predictors)),
        row=torch.repeat_interleave(torch.arange(len(sequences), device=device), lengths),
        lengths=lengths,
        targets=torch.cat([s.completion_ids for s in sequences]),
        old_logprobs=torch.cat([s.old_logprobs for s in sequences]),
        advantages=torch.cat([s.advantages for s in sequences]),
        importance_weights=_joined([s.importance_weights for s in sequences]),
        loss_mask=_joined_masks(sequences),
    )


def _joined(weights: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate importance weights; None if no sequence has any.

    Raises:
        ValueError: only some have them.
    """
    given = [w for w in weights if w is not None]
    if given and len(given) < len(weights):
        raise ValueError(
            f"{len(given)} of {len(weights)} sequences of a micro-batch have importance weights; expected all"
        )
    return torch.cat(given) if given else None


def _joined_masks(sequences: Sequence[TrainingSequence]) -> Tensor | None:
    """Concatenate loss masks, True for sequences that have none; None if no sequence has any."""
    if all(s.loss_mask is None for s in sequences):
        return None
    return torch.cat(
        [torch.ones_like(s.completion_ids, dtype=torch.bool) if s.loss_mask is None else s.loss_mask for s in sequences]
    )


def dummy_microbatch(batching: MicroBatching, device: torch.device) -> MicroBatch:
    """Build a micro-batch of two tokens for a rank that has run out before others: collectives must match; its loss is 0."""
    token, zero = torch.zeros(1, dtype=torch.long, device=device), torch.zeros(1, device=device)
    return batching.collate([TrainingSequence(token, token, zero, zero)])


def microbatches(sequences: Sequence[TrainingSequence], budget: int, batching: MicroBatching) -> Iterator[MicroBatch]:
    """Yield collated micro-batches under a token budget, each sequence once."""
    for rows in batching.slices(sequences, budget):
        yield batching.collate([sequences[i] for i in rows])
