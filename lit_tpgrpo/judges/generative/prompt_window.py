"""Which part of a solution a question shows. Where all of it fits, all questions show all of it and share their prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lit_tpgrpo.judges.generative.numbered_solution import NumberedSolution
from lit_tpgrpo.judges.generative.prompts import PromptSet

MARGIN = 10
"""Paragraphs shown behind the ones asked about, where not everything fits."""
QUOTED_CHARS = 1200
"""A step that a question repeats is cut to this length; it stands in the shared text as a whole."""


@dataclass(frozen=True)
class PromptWindow:
    """A sheet under a prompt set and a limit of ``max_chars`` of think block in one prompt."""

    numbered: NumberedSolution
    prompts: PromptSet
    max_chars: int

    @property
    def last(self) -> int:
        """The last paragraph."""
        return len(self.numbered.paragraphs)

    @cached_property
    def fits(self) -> bool:
        """Whether the whole think block goes into one prompt."""
        return self.numbered.fitting(1, self.max_chars) == self.last

    def view(self, first: int, last: int) -> tuple[int, int]:
        """What is shown for a question about the paragraphs ``first`` to ``last``: all if it fits, else those, a few
        behind them, and as much as fits in front of them."""
        if self.fits:
            return 1, self.last
        end = min(self.last, last + MARGIN)
        begin = self.numbered.fitting_before(end, self.max_chars)
        if begin > first:  # what is asked about comes before what lies around it
            begin, end = first, max(last, self.numbered.fitting(first, self.max_chars))
        return begin, end

    def shared(self, first: int, last: int) -> str:
        """The shared text for a question about the paragraphs ``first`` to ``last``."""
        return self.prompts.shared(self.numbered, *self.view(first, last))

    def chunks(self, step_starts: Sequence[int], step_indices: Sequence[int], most: int) -> list[list[int]]:
        """Steps (places in ``step_starts``, ascending) in groups that can be asked about together: at most ``most``, and near
        enough to one another to be shown together."""
        found: list[list[int]] = []
        for index in step_indices:
            near = bool(found) and self.end(step_starts, index) <= self.numbered.fitting(
                step_starts[found[-1][0]], self.max_chars
            )
            if near and len(found[-1]) < most:
                found[-1].append(index)
            else:
                found.append([index])
        return found

    def windows(self, most: int, overlap: int) -> list[tuple[int, int]]:
        """Overlapping ranges of at most ``most`` paragraphs that fit into a prompt each and cover everything."""
        found: list[tuple[int, int]] = []
        first = 1
        while True:
            last = min(first + most - 1, self.numbered.fitting(first, self.max_chars))
            found.append((first, last))
            if last == self.last:
                return found
            first = max(first + 1, last + 1 - overlap)

    def parts(self, step_starts: Sequence[int]) -> list[tuple[int, int]]:
        """Ranges ``[i, j)`` of steps to be asked about together: all, or as many as fill half a prompt."""
        if self.fits:
            return [(0, len(step_starts))]
        found: list[tuple[int, int]] = []
        i = 0
        while i < len(step_starts):
            last = self.numbered.fitting(step_starts[i], self.max_chars // 2)
            j = i + 1
            while j < len(step_starts) and self.end(step_starts, j) <= last:
                j += 1
            found.append((i, j))
            i = j
        return found

    def end(self, step_starts: Sequence[int], i: int) -> int:
        """The last paragraph of step i."""
        return step_starts[i + 1] - 1 if i + 1 < len(step_starts) else self.last

    def quoted(self, step_starts: Sequence[int], i: int) -> str:
        """The text of step i on one line."""
        text = " ".join(
            " ".join(self.numbered.texts[n - 1] for n in range(step_starts[i], self.end(step_starts, i) + 1)).split()
        )
        return text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + " …"
