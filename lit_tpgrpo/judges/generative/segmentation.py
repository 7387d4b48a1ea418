"""Semantic segmentation (paper, Stage I: "segmented by prompting an LLM"): the LLM returns ranges of numbered paragraphs.

It never rewrites text. A reply is valid if its ranges are in bounds, contiguous and cover everything; unambiguous errors
are repaired. Long chains are segmented in overlapping windows, joined at a boundary that both windows agree on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.async_bridge import gather_or_cancel
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import Question, request_id
from lit_tpgrpo.judges.generative.queries import JudgeClient, Query, UnansweredError
from lit_tpgrpo.judges.generative.verdicts import SegmentationVerdict, VerdictError


class Segmentation(Protocol):
    """Interface of a segmentation: ``starts`` returns the first paragraph of each think step, ascending from 1."""

    @property
    def settings(self) -> dict[str, Any]: ...

    async def starts(self, client: JudgeClient, window: PromptWindow) -> tuple[int, ...]: ...


@checked_arguments()
@dataclass(frozen=True)
class RuleSegmentation:
    """Segmentation by the rules of ``text.steps``, without requests to the LLM."""

    @property
    def settings(self) -> dict[str, Any]:
        return {"segmentation": "rule"}

    async def starts(self, client: JudgeClient, window: PromptWindow) -> tuple[int, ...]:
        return window.numbered.step_starts(window.numbered.case.steps)


@checked_arguments()
@dataclass(frozen=True)
class LLMSegmentation:
    """Segmentation by the LLM. A window without a valid reply is segmented by the rules instead, and counted.

    Args:
        window: most paragraphs in one question.
        overlap: paragraphs that neighbouring windows share.
    """

    window: int = 120
    overlap: int = 12

    def __post_init__(self) -> None:
        if self.window < 2 or not 1 <= self.overlap < self.window:
            raise ConfigError(
                f"segmentation: window must be at least 2 and overlap between 1 and window - 1, got {self.window} and "
                f"{self.overlap}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"segmentation": "llm", "window": self.window, "overlap": self.overlap}

    async def starts(self, client: JudgeClient, window: PromptWindow) -> tuple[int, ...]:
        windows = window.windows(self.window, self.overlap)
        starts = await gather_or_cancel(*(self._window(client, window, first, last) for first, last in windows))
        return join_windows(windows, starts)

    async def _window(self, client: JudgeClient, window: PromptWindow, first: int, last: int) -> tuple[int, ...]:
        client.counters.add("segmentations")
        if first == last:
            return (first,)
        shared = window.shared(first, last)
        ask_id = request_id(shared, Question.SEGMENTATION, first=first, last=last)
        query = Query(
            Question.SEGMENTATION,
            shared,
            window.prompts.question(Question.SEGMENTATION, ask_id, first=first, last=last),
            ask_id,
            SegmentationVerdict,
            lambda verdict: checked_starts(verdict.steps, first, last),
        )
        try:
            return await client.once(query)
        except UnansweredError:
            client.counters.add("segmentations_rule")
            step_starts = window.numbered.step_starts(window.numbered.case.steps)
            return (first, *(n for n in step_starts if first < n <= last))


def checked_starts(ranges: Sequence[Sequence[int]], first: int, last: int) -> tuple[tuple[int, ...], int]:
    """Return the starts of ranges that tile ``first`` to ``last``, and whether a repair was needed (0 or 1).

    Repaired: wrong order, repeated ranges, ranges with swapped ends, a last range that passes the end.

    Raises:
        VerdictError: the ranges are out of bounds, overlap or leave gaps.
    """
    tidy = sorted({(min(a, b), max(a, b)) for a, b in ranges})
    if tidy[-1][0] <= last < tidy[-1][1]:
        tidy[-1] = (tidy[-1][0], last)
    expected = first
    for a, b in tidy:
        if a < first or b > last:
            raise VerdictError(f"steps: [{a}, {b}] is out of bounds, expected {first} to {last}")
        if a != expected:
            kind = "overlap" if a < expected else "leave a gap"
            raise VerdictError(f"steps: the ranges {kind} at {a}, expected a range from {expected}")
        expected = b + 1
    if expected != last + 1:
        raise VerdictError(f"steps: paragraphs {expected} to {last} are left out")
    return tuple(a for a, _ in tidy), int([list(pair) for pair in tidy] != [list(pair) for pair in ranges])


def join_windows(windows: Sequence[tuple[int, int]], starts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Merge the starts of overlapping windows into one list.

    The edges of a window may lie inside a step, so two windows are joined where both begin a step, at the start nearest
    to the middle of their overlap. If they share no start, the earlier window counts up to the middle, the later one
    after it.
    """
    merged = list(starts[0])
    for (_, left_end), (first, _), later in zip(windows, windows[1:], starts[1:], strict=False):
        middle = (first + left_end) / 2
        # The first paragraph of a window is a start by construction, not by the LLM's decision.
        common = (set(merged) & set(later)) - {first}
        cut = min(common, key=lambda n: (abs(n - middle), n), default=int(middle) + 1)
        merged = [n for n in merged if n < cut] + [n for n in later if n >= cut]
    return tuple(merged)
