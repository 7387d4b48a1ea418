"""Sampling with an independent random stream for every row of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from lit_tpgrpo.engines.base import SamplingParams


class SeededChoice(LogitsProcessor):
    """Logits processor that draws each row's next token by inverse transform sampling and masks all other tokens.

    The token is the first at which the row's cumulative distribution exceeds a uniform number; the numbers of row r are
    the stream of ``seeds[r]``. ``torch.multinomial`` draws from one stream for the whole batch, so a row's tokens would
    depend on its position in the batch and on the other rows.

    Args:
        seeds: one for each row.
        length: most tokens drawn per row.
        width: length of the padded prompts, in tokens.
        device: device of the logits.
    """

    def __init__(self, seeds: Sequence[int], length: int, width: int, device: torch.device) -> None:
        streams = [torch.rand(length, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
        self._exact = torch.float32 if device.type == "mps" else torch.float64
        self._uniform = torch.stack(streams).to(device=device, dtype=self._exact)
        self._width = width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map scores (rows, vocabulary) to 0 at the drawn token and -inf elsewhere."""
        cumulative = torch.softmax(scores.float(), dim=-1).to(self._exact).cumsum(dim=-1)
        drawn = self._uniform[:, input_ids.shape[1] - self._width, None] * cumulative[:, -1:]
        # right=True: a token of probability 0 is never drawn.
        token = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)

    def keep_rows(self, rows: Tensor) -> None:
        """Drop the streams of all other rows."""
        self._uniform = self._uniform[rows]


def truncations(params: SamplingParams) -> list[LogitsProcessor]:
    """Return the logits processors for ``top_k`` and ``top_p``, in transformers' order."""
    processors: list[LogitsProcessor] = []
    if params.top_k > 0:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    return processors
