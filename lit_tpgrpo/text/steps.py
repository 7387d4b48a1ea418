"""Rule segmentation of a completion into semantic steps (paper, Stage I, which prompts an LLM for it).

Steps are paragraphs, joined where a paragraph cannot stand alone:

* a paragraph that is nothing but display maths or code joins the one before it;
* a paragraph that ends in a colon or a comma ("Thus,") takes the one after it, which finishes its sentence;
* a bare interjection ("Hmm.", "Wait...", the opening ``<think>``) joins the paragraph after it, which says what it is
  about.

A judge may segment anew (``Verdict.steps``); this is what it starts from, and what it falls back to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lit_tpgrpo.records import Step
from lit_tpgrpo.text.answers import answer_start
from lit_tpgrpo.text.paragraphs import Span, block_spans, paragraph_spans
from lit_tpgrpo.text.spans import token_spans

# The full-width forms are those of Chinese text.
UNFINISHED = (":", ",", "\uff1a", "\uff0c")
BARE_OPENING = re.compile(
    r"(?:\s|<think>|[.,!?…:-]|\b(?:wait|hm+|oh|ah|huh|ok|okay|no|so|but|actually|alright|right|now|well)\b"
    r"|\b(?:let me see|hold on|a (?:minute|second|moment))\b)*",
    re.IGNORECASE,
)


def segment_steps(text: str, token_starts: Sequence[int], n_tokens: int) -> tuple[Step, ...]:
    """Steps of a completion: think steps first, then the answer block as the last step (``is_answer``).

    Their texts join to ``text`` and their token spans cover ``range(n_tokens)`` once and in order. There is always at
    least one step, an empty one for an empty text. No answer step means that the think block was never closed; no
    think step, that there is nothing but white space in it (the answer step then covers it too). Think steps that
    hold the first character of no token are joined to the step before them; the answer step stays, even tokenless.

    >>> text = "One.\\n\\nHmm.\\n\\nTwo.</think>2"  # a token for each character; "Hmm." joins what it is about
    >>> [(text[s.start : s.end], s.is_answer) for s in segment_steps(text, range(len(text)), len(text))]
    [('One.\\n\\n', False), ('Hmm.\\n\\nTwo.', False), ('</think>2', True)]
    """
    if len(token_starts) != n_tokens:
        raise ValueError(f"expected one start for each of the {n_tokens} tokens, got {len(token_starts)}")
    answer = answer_start(text)
    think_end = len(text) if answer is None else answer
    blocks = block_spans(text)
    paragraphs = paragraph_spans(text, think_end, blocks)
    if answer is not None and not text[:think_end].replace("<think>", "", 1).strip():
        return _tiled(text, [0], answer, token_starts)
    return steps_from_starts(text, _step_starts(text, paragraphs, blocks) or [0], token_starts)


def steps_from_starts(text: str, starts: Sequence[int], token_starts: Sequence[int]) -> tuple[Step, ...]:
    """Steps whose think steps begin at the given characters (ascending, the first is 0), the answer block after them.

    Think steps that hold the first character of no token are joined to the step before them.
    """
    answer = answer_start(text)
    think_end = len(text) if answer is None else answer
    thinks = token_spans([*starts, think_end], token_starts)[: len(starts)]
    kept = [s for s, (a, b) in zip(starts, thinks, strict=True) if a < b or s == 0]
    return _tiled(text, kept if answer is None else [*kept, answer], answer, token_starts)


def _tiled(text: str, starts: list[int], answer: int | None, token_starts: Sequence[int]) -> tuple[Step, ...]:
    ends = [*starts[1:], len(text)]
    last = len(starts) - 1
    return tuple(
        Step(start, end, *tokens, is_answer=answer is not None and i == last)
        for i, (start, end, tokens) in enumerate(zip(starts, ends, token_spans(starts, token_starts), strict=True))
    )


def _step_starts(text: str, paragraphs: list[Span], blocks: list[Span]) -> list[int]:
    """The paragraph starts at which a step begins, after the joining rules."""
    starts: list[int] = []
    join_next = False
    block = 0
    for start, end in paragraphs:
        own, outside, at = text[start:end], "", start
        while block < len(blocks) and blocks[block][1] <= end:
            outside += text[at : blocks[block][0]]
            at = blocks[block][1]
            block += 1
        is_block = at > start and not (outside + text[at:end]).strip(" \t\r\n.,;")
        if not starts or not (join_next or is_block):
            starts.append(start)
        join_next = own.rstrip().endswith(UNFINISHED) or BARE_OPENING.fullmatch(own) is not None
    return starts
