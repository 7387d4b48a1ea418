"""End a sample where its text holds one of the stop strings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

_MARGIN = 8
"""Tokens before a stop string that are decoded with it: a character may begin in an earlier token."""


class StopStrings(StoppingCriteria):
    """Stop a row with the token that completes a stop string in its completion; strings in the prompt do not count.

    transformers' own ``StopStringCriteria`` also matches strings that begin in the prompt, and does not say where a row ended.

    Args:
        tokenizer: of the model. Special tokens count as their texts.
        strings: the stop strings.
        width: number of tokens before the completion.
        rows: number of rows.

    Attributes:
        strings: the stop strings.
        ends: number of tokens of each row's completion up to and with its stop string, None while it has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], width: int, rows: int) -> None:
        self.ends: list[int | None] = [None] * rows
        self._tokenizer, self.strings, self._width = tokenizer, tuple(strings), width
        # Every token of a match but the first and the last has a byte of it.
        self._window = max((len(s.encode()) for s in self.strings), default=0) + _MARGIN

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return which rows are done, (rows,) bool."""
        new = input_ids[:, self._width :][:, -self._window :].tolist()
        for row, ids in enumerate(new):
            if self.ends[row] is None:
                text = str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
                if any(string in text for string in self.strings):
                    self.ends[row] = input_ids.shape[1] - self._width
        return torch.tensor([end is not None for end in self.ends], device=input_ids.device)

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all other rows."""
        self.ends = [self.ends[row] for row in rows.tolist()]
