"""Cut ragged sequences into padded micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_tpgrpo.records import TrainingSequence


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B sequences padded to L tokens, and their N completion tokens laid out flat.

    ``input_ids`` and ``attention_mask`` are (B, L), ``lengths`` (B,) counts completion tokens. All other tensors are (N,):
    ``targets[i]`` is predicted by the hidden state at ``[row[i], position[i]]`` and was sampled with ``old_logprobs[i]``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    lengths: Tensor
    row: Tensor
    position: Tensor
    targets: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    importance_weights: Tensor | None = None
    loss_mask: Tensor | None = None


def token_budget_slices(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices into micro-batches whose padded size (rows x longest) stays within ``budget`` tokens.

    Sorted by length, longest first, so that little is padding and memory peaks in the first micro-batch. A sequence
    longer than the budget gets a micro-batch to itself.
    """
    slices: list[list[int]] = []
    width = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if slices and (len(slices[-1]) + 1) * width <= budget:
            slices[-1].append(i)
        else:
            slices.append([i])
            width = lengths[i]
    return slices


def collate(sequences: Sequence[TrainingSequence], pad_id: int) -> MicroBatch:
    """Right-pad sequences into one micro-batch, on their device."""
    ids = [torch.cat((s.prompt_ids, s.completion_ids)) for s in sequences]
    device = ids[0].device
    n_prompt = torch.tensor([len(s.prompt_ids) for s in sequences], device=device)
    lengths = torch.tensor([len(s.completion_ids) for s in sequences], device=device)
    row = torch.repeat_interleave(torch.arange(len(sequences), device=device), lengths)
    # The hidden state at position p predicts token p + 1: a completion is read off from its prompt's last token on.
    position = torch.cat(
        [torch.arange(len(s.completion_ids), device=device) + len(s.prompt_ids) - 1 for s in sequences]
    )
    padded = pad_sequence(ids, batch_first=True, padding_value=pad_id)
    return MicroBatch(
        input_ids=padded,
        attention_mask=(torch.arange(padded.shape[1], device=device) < (n_prompt + lengths)[:, None]).long(),
        lengths=lengths,
        row=row,
        position=position,
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


def dummy_microbatch(device: torch.device) -> MicroBatch:
    """Build a micro-batch of two tokens for a rank that has run out before others: collectives must match; its loss is 0."""
    zero = torch.zeros(1, dtype=torch.long, device=device)
    return MicroBatch(
        input_ids=torch.zeros(1, 2, dtype=torch.long, device=device),
        attention_mask=torch.ones(1, 2, dtype=torch.long, device=device),
        lengths=torch.ones(1, dtype=torch.long, device=device),
        row=zero,
        position=zero,
        targets=zero,
        old_logprobs=torch.zeros(1, device=device),
        advantages=torch.zeros(1, device=device),
    )


def microbatches(sequences: Sequence[TrainingSequence], budget: int, pad_id: int) -> Iterator[MicroBatch]:
    """Yield collated micro-batches under a token budget, each sequence once."""
    for rows in token_budget_slices([len(s) for s in sequences], budget):
        yield collate([sequences[i] for i in rows], pad_id)
