"""Sampling in which every row of a batch draws from a random stream of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from lit_tpgrpo.engines.base import SamplingParams


class SeededChoice(LogitsProcessor):
    """Draws each row's next token by inverse transform sampling and leaves it alone possible.

    The token is the first at which the row's cumulative distribution exceeds a uniform number; row r's numbers are the
    stream of ``seeds[r]``. ``torch.multinomial`` draws from one stream for the whole batch: a row's tokens would depend on
    its place in the batch and on the rows beside it.

    Args:
        seeds: one for each row.
        length: tokens that may be drawn.
        width: tokens of the padded prompts.
    """

    def __init__(self, seeds: Sequence[int], length: int, width: int, device: torch.device) -> None:
        streams = [torch.rand(length, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
        self._exact = torch.float32 if device.type == "mps" else torch.float64
        self._uniform = torch.stack(streams).to(device=device, dtype=self._exact)
        self._width = width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(rows, vocabulary) scores -> 0 at the token drawn, -inf elsewhere."""
        cumulative = torch.softmax(scores.float(), dim=-1).to(self._exact).cumsum(dim=-1)
        drawn = self._uniform[:, input_ids.shape[1] - self._width, None] * cumulative[:, -1:]
        # To the right: a token of probability 0 is never taken.
        token = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def cuts(params: SamplingParams) -> list[LogitsProcessor]:
    """What ``top_k`` and ``top_p`` leave out, in transformers' own order."""
    found: list[LogitsProcessor] = []
    if params.top_k > 0:
        found.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        found.append(TopPLogitsWarper(params.top_p))
    return found
