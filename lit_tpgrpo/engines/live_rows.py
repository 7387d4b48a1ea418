"""When finished rows leave a batch, and what has to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import StoppingCriteria

from lit_tpgrpo.engines.stop_strings import StopStrings

SHARE = 4
"""Finished rows leave a batch when they are one in ``SHARE`` of it, for the keys and values of the others are copied then."""


@runtime_checkable
class PerRow(Protocol):
    """What holds a state for each row of a batch."""

    def keep_rows(self, rows: Tensor) -> None:
        """Drop the state of all but these rows; rows: (kept,) ascending indices, on the device of the model."""
        ...


class EnoughRowsEnded(StoppingCriteria):
    """Stop all rows as soon as ``quota`` of them have ended, by an end token or a stop string.

    The ended rows are counted on the device, so that nothing waits for it besides ``generate`` itself.

    Args:
        eos_ids: the end tokens.
        stops: the stop strings, of the same rows.
        quota: number of ended rows at which all stop, from 1 to the number of rows.
        device: device of the tokens.

    Attributes:
        ended: (rows,) bool, which rows have ended.
    """

    def __init__(self, eos_ids: Sequence[int], stops: StopStrings, quota: int, device: torch.device) -> None:
        self.ended = torch.zeros(len(stops.ends), dtype=torch.bool, device=device)
        self._eos_ids = torch.tensor(eos_ids, device=device)
        self._stops, self._quota = stops, quota

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return which rows are done, (rows,) bool."""
        self.ended |= torch.isin(input_ids[:, -1], self._eos_ids)
        if self._stops.strings:
            self.ended |= self._stops(input_ids, scores)
        return self.ended | (self.ended.sum() >= self._quota)


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, both (prompts, longest)."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask
