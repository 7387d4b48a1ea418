"""Selects the part of a solution that a prompt shows. If all of it fits, all prompts show all of it and share their prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lit_tpgrpo.judges.generative.numbered_solution import NumberedSolution
from lit_tpgrpo.judges.generative.prompts import PromptSet

MARGIN = 10
"""Paragraphs shown after the ones asked about, if not everything fits."""
QUOTED_CHARS = 1200
"""A step quoted in a question is cut to this length; the shared prefix contains all of it."""


@dataclass(frozen=True)
class PromptWindow:
    """A numbered solution with the prompts for it and the most characters of its think block in one prompt."""

    numbered: NumberedSolution
    prompts: PromptSet
    max_chars: int

    @property
    def last(self) -> int:
        """The number of the last paragraph."""
        return len(self.numbered.paragraphs)

    @cached_property
    def fits(self) -> bool:
        """Whether the whole think block fits into one prompt."""
        return self.numbered.last_fitting(1, self.max_chars) == self.last

    def view(self, first: int, last: int) -> tuple[int, int]:
        """Return the paragraphs (first, last) shown for a question about the paragraphs ``first`` to ``last``.

        All if they fit; else the ones asked about, ``MARGIN`` after them, and as many as fit before them.
        """
        if self.fits:
            return 1, self.last
        end = min(self.last, last + MARGIN)
        begin = self.numbered.first_fitting(end, self.max_chars)
        if begin > first:  # the paragraphs asked about take precedence over their context
            begin, end = first, max(last, self.numbered.last_fitting(first, self.max_chars))
        return begin, end

    def shared(self, first: int, last: int) -> str:
        """Return the shared prefix of a prompt about the paragraphs ``first`` to ``last``."""
        return self.prompts.shared(self.numbered, *self.view(first, last))

    def chunks(self, step_starts: Sequence[int], step_indices: Sequence[int], most: int) -> list[list[int]]:
        """Group steps (ascending indices into ``step_starts``) by the question they are asked in.

        A group has at most ``most`` steps, close enough to one another to fit into one prompt.
        """
        groups: list[list[int]] = []
        for index in step_indices:
            near = bool(groups) and self.end(step_starts, index) <= self.numbered.last_fitting(
                step_starts[groups[-1][0]], self.max_chars
            )
            if near and len(groups[-1]) < most:
                groups[-1].append(index)
            else:
                groups.append([index])
        return groups

    def windows(self, most: int, overlap: int) -> list[tuple[int, int]]:
        """Return overlapping ranges of at most ``most`` paragraphs that cover the think block and fit into a prompt each."""
        ranges: list[tuple[int, int]] = []
        first = 1
        while True:
            last = min(first + most - 1, self.numbered.last_fitting(first, self.max_chars))
            ranges.append((first, last))
            if last == self.last:
                return ranges
            first = max(first + 1, last + 1 - overlap)

    def parts(self, step_starts: Sequence[int]) -> list[tuple[int, int]]:
        """Return ranges ``[i, j)`` of steps, one per question: all steps, or as many as fill half a prompt."""
        if self.fits:
            return [(0, len(step_starts))]
        ranges: list[tuple[int, int]] = []
        i = 0
        while i < len(step_starts):
            last = self.numbered.last_fitting(step_starts[i], self.max_chars // 2)
            j = i + 1
            while j < len(step_starts) and self.end(step_starts, j) <= last:
                j += 1
            ranges.append((i, j))
            i = j
        return ranges

    def end(self, step_starts: Sequence[int], i: int) -> int:
        """Return the last paragraph of step i."""
        return step_starts[i + 1] - 1 if i + 1 < len(step_starts) else self.last

    def quoted(self, step_starts: Sequence[int], i: int) -> str:
        """Return the text of step i on one line, cut to ``QUOTED_CHARS``."""
        text = " ".join(
            " ".join(self.numbered.texts[n - 1] for n in range(step_starts[i], self.end(step_starts, i) + 1)).split()
        )
        return text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + " …"
