"""Padded micro-batches: one row a sequence, sorted by length so that little is padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lit_tpgrpo.functional.token_budget import token_budget_slices
from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.training.microbatches import MicroBatch, flat_micro_batch


@dataclass(frozen=True)
class Padded:
    """Right padding without an attention mask, for causal models.

    What is on the right of a token changes nothing for it, so a mask would only keep attention from its causal kernel.
    Positions count from the left of each row, transformers' default. ``batching_choice.is_causal`` tests a model for it.

    Args:
        pad_id: the token of the padding.
    """

    pad_id: int

    def slices(self, sequences: Sequence[TrainingSequence], budget: int) -> list[list[int]]:
        """Sort by length; ``budget`` counts padding, too."""
        return token_budget_slices([len(s) for s in sequences], budget)

    def collate(self, sequences: Sequence[TrainingSequence]) -> MicroBatch:
        """Right-pad sequences to the longest."""
        ids, predictors = _padded(sequences, self.pad_id)
        return flat_micro_batch({"input_ids": ids}, predictors, sequences)

    def ready(self, models: Sequence[PreTrainedModel]) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True)
class Masked(Padded):
    """Right padding with an attention mask, for models that need one."""

    def collate(self, sequences: Sequence[TrainingSequence]) -> MicroBatch:
        """Right-pad sequences to the longest; ``attention_mask`` (B, L) is 0 in the padding."""
        micro = super().collate(sequences)
        ids = micro.model_inputs["input_ids"]
        ends = torch.tensor([len(s) for s in sequences], device=ids.device)
        mask = (torch.arange(ids.shape[1], device=ids.device) < ends[:, None]).long()
        return replace(micro, model_inputs={"input_ids": ids, "attention_mask": mask})


def _padded(sequences: Sequence[TrainingSequence], pad_id: int) -> tuple[Tensor, list[Tensor]]:
    """Return (B, L) token ids and each sequence's predictors."""
    ids = pad_sequence(
        [torch.cat((s.prompt_ids, s.completion_ids)) for s in sequences], batch_first=True, padding_value=pad_id
    )
    # The hidden state at position p predicts token p + 1: a completion is read off from its prompt's last token on.
    starts = [i * ids.shape[1] + len(s.prompt_ids) - 1 for i, s in enumerate(sequences)]
    predictors = [
        torch.arange(start, start + len(s.completion_ids), device=ids.device)
        for start, s in zip(starts, sequences, strict=True)
    ]
    return ids, predictors
