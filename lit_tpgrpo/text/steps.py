"""Segment a completion into semantic steps by rules (paper, Stage I, which prompts an LLM for it).

Steps are paragraphs, merged if a paragraph is incomplete without its neighbour:

* a paragraph of only display maths or code is merged with the one before it;
* a paragraph that ends in a colon or a comma ("Thus,") is merged with the next one, which finishes its sentence;
* a mere interjection ("Hmm.", "Wait...", the opening tag) is merged with the next paragraph, which says what it
  is about.

A judge may replace this segmentation (``Verdict.steps``); it starts from this one and falls back to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_tpgrpo.records import Step
from lit_tpgrpo.text.formats.base import Division
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.text.paragraphs import Span, block_spans, paragraph_spans
from lit_tpgrpo.text.spans import token_spans

if TYPE_CHECKING:
    from lit_tpgrpo.token_arrays import Offsets

# The full-width forms are those of Chinese text.
UNFINISHED = (":", ",", "\uff1a", "\uff0c")
BARE_OPENING = re.compile(
    r"(?:\s|<think>|[.,!?…:-]|\b(?:wait|hm+|oh|ah|huh|ok|okay|no|so|but|actually|alright|right|now|well)\b"
    r"|\b(?:let me see|hold on|a (?:minute|second|moment))\b)*",
    re.IGNORECASE,
)


def segment_steps(
    text: str, token_starts: Offsets, n_tokens: int, division: Division | None = None
) -> tuple[Step, ...]:
    """Segment a completion into think steps, followed by the answer block as the last step (``is_answer``).

    The steps' texts join to ``text``, and their token spans cover ``range(n_tokens)`` once and in order. There is always at
    least one step, an empty one for an empty text. There is no answer step if there is no answer block, and no think step
    if the thinking contains only white space (the answer step then covers it too). A think step that contains the first
    character of no token is merged with the step before it; the answer step is kept even without tokens.

    Args:
        text: the completion.
        token_starts: ``(n_tokens,)``, index of the first character of each token.
        n_tokens: number of sampled tokens.
        division: where thinking and answer block lie; None: by ``ThinkTags()``.

    Raises:
        ValueError: ``token_starts`` does not have ``n_tokens`` entries.

    >>> text = "One.\\n\\nHmm.\\n\\nTwo.</think>2"  # a token for each character; "Hmm." joins what it is about
    >>> [(text[s.start : s.end], s.is_answer) for s in segment_steps(text, range(len(text)), len(text))]
    [('One.\\n\\n', False), ('Hmm.\\n\\nTwo.', False), ('</think>2', True)]
    """
    if len(token_starts) != n_tokens:
        raise ValueError(f"expected one start for each of the {n_tokens} tokens, got {len(token_starts)}")
    division = ThinkTags().divide(text) if division is None else division
    first, think_end = division.thinking
    blocks = block_spans(text)
    paragraphs = paragraph_spans(text, think_end, blocks)
    if division.answer is not None and not division.thinking_text(text).strip():
        return _adjacent_steps(text, [0], think_end, token_starts)
    return steps_from_starts(text, _step_starts(text, paragraphs, blocks, first) or [0], token_starts, division)


def steps_from_starts(
    text: str, starts: Sequence[int], token_starts: Offsets, division: Division | None = None
) -> tuple[Step, ...]:
    """Build think steps that begin at the given characters (ascending, from 0), followed by the answer block.

    A think step that contains the first character of no token is merged with the step before it. ``division``: see
    ``segment_steps``.
    """
    division = ThinkTags().divide(text) if division is None else division
    answer, think_end = division.boundary, division.thinking[1]
    thinks = token_spans([*starts, think_end], token_starts)[: len(starts)]
    kept = [s for s, (a, b) in zip(starts, thinks, strict=True) if a < b or s == 0]
    return _adjacent_steps(text, kept if answer is None else [*kept, answer], answer, token_starts)


def _adjacent_steps(text: str, starts: list[int], answer: int | None, token_starts: Offsets) -> tuple[Step, ...]:
    """Build steps that each end where the next one begins."""
    ends = [*starts[1:], len(text)]
    last = len(starts) - 1
    return tuple(
        Step(start, end, *tokens, is_answer=answer is not None and i == last)
        for i, (start, end, tokens) in enumerate(zip(starts, ends, token_spans(starts, token_starts), strict=True))
    )


def _step_starts(text: str, paragraphs: list[Span], blocks: list[Span], first: int) -> list[int]:
    """Return the starts of those paragraphs at which a step begins, after merging; the thinking begins at ``first``."""
    starts: list[int] = []
    merge_next = False
    block = 0
    for start, end in paragraphs:
        paragraph, outside, position = text[start:end], "", start
        while block < len(blocks) and blocks[block][1] <= end:
            outside += text[position : blocks[block][0]]
            position = blocks[block][1]
            block += 1
        is_block = position > start and not (outside + text[position:end]).strip(" \t\r\n.,;")
        if not starts or not (merge_next or is_block):
            starts.append(start)
        said = paragraph if first <= start else text[first:end]  # without the opening tag
        merge_next = paragraph.rstrip().endswith(UNFINISHED) or BARE_OPENING.fullmatch(said) is not None
    return starts
