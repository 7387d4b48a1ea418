"""Split a chain of thought into paragraphs, from which steps are built (paper, Stage I)."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import pairwise

Span = tuple[int, int]

# A line break followed by at least one blank line. CRLF is one line break, not two.
BLANK_LINES = re.compile(r"\r?\n(?:[^\S\r\n]*\r?\n)+")
# A backslash before "\[" makes it a LaTeX line break with an option, "\\[2pt]", not display maths.
BLOCK_MARKS = re.compile(r"```|\$\$|(?<!\\)\\\[|(?<!\\)\\\]")
CLOSING_MARK = {"```": "```", "$$": "$$", r"\[": r"\]"}
# Longer "blocks" come from unbalanced marks ("it costs $$5"), which must not hide half of the chain.
MAX_BLOCK_CHARS = 4000


def block_spans(text: str) -> list[Span]:
    """Return the half-open spans of display maths (``$$ … $$``, ``\\[ … \\]``) and code fences.

    Blank lines inside them end no paragraph. A mark without a partner within ``MAX_BLOCK_CHARS`` is plain text. Linear in
    the text.
    """
    marks = [(m.start(), m.end(), m.group()) for m in BLOCK_MARKS.finditer(text)]
    next_of: dict[str, int] = {}
    partner: list[int | None] = [None] * len(marks)
    for i in range(len(marks) - 1, -1, -1):
        closing = CLOSING_MARK.get(marks[i][2])
        partner[i] = next_of.get(closing) if closing else None
        next_of[marks[i][2]] = i
    spans: list[Span] = []
    i = 0
    while i < len(marks):
        j = partner[i]
        if j is not None and marks[j][1] - marks[i][0] <= MAX_BLOCK_CHARS:
            spans.append((marks[i][0], marks[j][1]))
            i = j
        i += 1
    return spans


def paragraph_spans(text: str, end: int | None = None, blocks: list[Span] | None = None) -> list[Span]:
    """Return the half-open spans of the paragraphs of ``text[:end]``; they cover it without gaps, and none is empty.

    Blank lines belong to the paragraph before them (leading ones to the first paragraph), the indentation of a line to
    the line.

    Args:
        text: the chain of thought.
        end: number of characters to split; by default all.
        blocks: ``block_spans(text)``, if the caller has it already.

    >>> paragraph_spans("One.\\n\\nTwo.")
    [(0, 6), (6, 10)]
    """
    end = len(text) if end is None else end
    blocks = block_spans(text) if blocks is None else blocks
    block_starts = [start for start, _ in blocks]
    begin = len(text) - len(text.lstrip())
    cuts = [0]
    for gap in BLANK_LINES.finditer(text, 0, end):
        k = bisect_right(block_starts, gap.start()) - 1
        inside = k >= 0 and gap.start() < blocks[k][1]
        if not inside and begin < gap.start():
            cuts.append(gap.end())
    cuts.append(end)
    return [(a, b) for a, b in pairwise(cuts) if a < b]
