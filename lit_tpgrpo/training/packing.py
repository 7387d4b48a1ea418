"""Packed micro-batches: many sequences one after the other in a single row, without padding; positions restart with each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.training.microbatches import MicroBatch, flat_micro_batch
from lit_tpgrpo.training.packed_attention import Packing, using_packed_attention


@dataclass(frozen=True)
class Packed:
    """One row of solutions, of which those of a group follow their common prompt: it is forwarded once.

    Attention is ``packed_attention``, sequence by sequence. Gradients of a shared prompt are the sum over its solutions, as if
    each had a copy.
    """

    def slices(self, sequences: Sequence[TrainingSequence], budget: int) -> list[list[int]]:
        """Keep solutions of a prompt together, the longest first; ``budget`` counts a prompt once a micro-batch."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, sequence in enumerate(sequences):
            groups.setdefault(_prompt(sequence), []).append(i)
        for members in groups.values():
            members.sort(key=lambda i: -len(sequences[i]))
        slices: list[list[int]] = []
        room = 0
        for members in sorted(groups.values(), key=lambda members: -len(sequences[members[0]])):
            begun = -1  # the micro-batch that has this prompt already
            for i in members:
                whole = len(sequences[i])
                more = len(sequences[i].completion_ids) if begun == len(slices) else whole
                if not slices or more > room:
                    slices.append([])
                    room, more = budget, whole
                slices[-1].append(i)
                room, begun = room - more, len(slices)
        return slices

    def collate(self, sequences: Sequence[TrainingSequence]) -> MicroBatch:
        """Pack sequences; neighbours with the same prompt share it."""
        ids: list[Tensor] = []
        positions: list[Tensor] = []
        predictors: list[Tensor] = []
        segments: list[int] = []
        parts: list[tuple[int, ...]] = []
        device = sequences[0].completion_ids.device
        end = 0

        def add(tokens: Tensor, position: int) -> int:
            """Append a segment whose first token has this position; return its index."""
            nonlocal end
            ids.append(tokens)
            positions.append(torch.arange(position, position + len(tokens), device=device))
            segments.append(len(tokens))
            end += len(tokens)
            return len(segments) - 1

        for _, same in groupby(sequences, key=_prompt):
            group = list(same)
            prompt = group[0].prompt_ids
            last = end + len(prompt) - 1  # predicts the first token of each completion
            if len(group) == 1:
                parts.append((add(torch.cat((prompt, group[0].completion_ids)), 0),))
                predictors.append(torch.arange(last, last + len(group[0].completion_ids), device=device))
                continue
            shared = add(prompt, 0)
            for sequence in group:
                start = end
                parts.append((shared, add(sequence.completion_ids, len(prompt))))
                rest = torch.arange(start, end, device=device)
                predictors.append(torch.cat((rest.new_tensor([last]), rest))[:-1])
        row = {"input_ids": torch.cat(ids)[None], "position_ids": torch.cat(positions)[None]}
        packing = Packing(tuple(segments), tuple(parts))
        return flat_micro_batch(row | {"packing": packing}, predictors, sequences)

    def ready(self, models: Sequence[PreTrainedModel]) -> AbstractContextManager[None]:
        return using_packed_attention(models)


@dataclass(frozen=True)
class PackedByPositions:
    """One row of sequences that transformers keeps apart by their positions and ``cu_seq_lens``: for FlashAttention and flex.

    With ``flash_attention_2`` and ``_3`` attention runs over the row as it is (varlen); with ``flex_attention``, ``sdpa`` and
    ``eager`` transformers builds a block-diagonal mask.
    """

    def slices(self, sequences: Sequence[TrainingSequence], budget: int) -> list[list[int]]:
        """Fill rows of ``budget`` tokens, the longest sequences first."""
        slices: list[list[int]] = []
        room = 0
        for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):
            if not slices or len(sequences[i]) > room:
                slices.append([])
                room = budget
            slices[-1].append(i)
            room -= len(sequences[i])
        return slices

    def collate(self, sequences: Sequence[TrainingSequence]) -> MicroBatch:
        """Pack sequences, each with its prompt."""
        device = sequences[0].completion_ids.device
        lengths = [len(s) for s in sequences]
        ends = torch.tensor([0, *lengths], device=device).cumsum(0).int()
        inputs = {
            "input_ids": torch.cat(list(_tokens(sequences)))[None],
            "position_ids": torch.cat([torch.arange(n, device=device) for n in lengths])[None],
            **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), ends),
            **dict.fromkeys(("max_length_q", "max_length_k"), max(lengths)),
        }
        starts = [0, *ends[1:].tolist()]
        predictors = [
            torch.arange(start + len(s.prompt_ids) - 1, start + len(s) - 1, device=device)
            for start, s in zip(starts[:-1], sequences, strict=True)
        ]
        return flat_micro_batch(inputs, predictors, sequences)

    def ready(self, models: Sequence[PreTrainedModel]) -> AbstractContextManager[None]:
        return nullcontext()


def _prompt(sequence: TrainingSequence) -> tuple[int, ...]:
    return tuple(sequence.prompt_ids.tolist())


def _tokens(sequences: Iterable[TrainingSequence]) -> Iterable[Tensor]:
    return (tokens for s in sequences for tokens in (s.prompt_ids, s.completion_ids))
