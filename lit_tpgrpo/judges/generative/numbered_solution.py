"""A solution as it is shown to the judge: the problem, the answer block and the think block with numbered paragraphs.

The numbers are assigned by code and are the same in every question about a solution, so that all prompts share a prefix.
The judge answers in these numbers only; it never copies text.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.records import Outcome, Step
from lit_tpgrpo.text.paragraphs import Span, paragraph_spans

# Text that a chat template, a tokenizer or a parser of replies could interpret as a control token, by syntactic form.
_CONTROL_FORMS = (
    r"<(/?[A-Za-z_]{1,24})>",  # </think>, <s>, <start_of_turn>, <tool_call>
    r"<(/?[A-Za-z_][A-Za-z_0-9]{0,40}[_:][A-Za-z_0-9:]{1,40}|unused\d{1,5})>",  # <seed:think>, <extra_id_0>, <reserved_106>
    r"<(/?[|｜][^<>\n]{1,60}[|｜])>",  # <|im_end|>, <｜User｜>
    r"<([|｜][A-Za-z_]{2,40}|[A-Za-z_]{2,40}[|｜])>",  # <|turn>, <turn|>
    r"\[([|｜][^\[\]\n]{1,60}[|｜])\]",  # [|endofturn|]
    r"\[(/?(?:INST|SYS|SYSTEM|USER|ASSISTANT)[A-Z_]*)\]",
    r"\[(/[A-Z][A-Z_]{2,40}|[A-Z]{2,20}_[A-Z_0-9]{1,40})\]",  # [/THINK], [TOOL_CALLS], [UNUSED_TOKEN_145]
    r"\[(THINK|ARGS|TOOLS?|IMG|AUDIO|PREFIX|MIDDLE|SUFFIX|TRANSCRIBE|CLS|SEP|MASK|[gs]MASK|UNK|BOS|EOS|EOT|PAD)\]",
    r"\[((?:start|end)_header_id|control_\d{1,4}|unused\d{1,5})\]",  # Kimi's, Mistral's
    r"[\[\]]([!a-z]{0,10}~[!a-z]{0,12})[\[\]]",  # ]~!b[, ]~b], [e~[
    r"\](<\][^<>\[\]\n]{1,40}\[>)\[",  # ]<]image[>[
    r">>([A-Z]{2,24})<<",
)
_CONTROL = re.compile("|".join(_CONTROL_FORMS))
_NUMBERS_SHARE = 5
"""Paragraph numbers may take a fifth of the characters allowed for text: a limit for thousands of one-letter paragraphs."""


def neutralize_control_tokens(text: str) -> str:
    """Put control tokens (``</think>``, ``<|im_end|>``, ``[INST]``) into brackets that no tokenizer treats as special."""
    return _CONTROL.sub(lambda m: f"‹{m[m.lastindex or 0]}›", text)


def prompt_text(text: str, max_chars: int) -> str:
    """Format a text for a prompt: neutralize control tokens, indent all lines but the first, cut out the middle if too long.

    Indented, no line can be mistaken for the beginning of a numbered paragraph.
    """
    text = "\n    ".join(neutralize_control_tokens(text.strip()).splitlines())
    if len(text) > max_chars:
        half = max_chars // 2
        text = f"{text[:half]} [… {len(text) - 2 * half} characters left out …] {text[-half:]}"
    return text


@dataclass(frozen=True)
class NumberedSolution:
    """A case with numbered paragraphs. ``paragraphs`` are the character spans of the think block's, numbered from 1."""

    case: JudgeCase
    paragraphs: tuple[Span, ...]
    answer: str
    max_chars: int = 100_000
    """Most characters of the think block in one prompt, at most half for one paragraph; numbers may take a fifth more."""

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The paragraphs, formatted for a prompt."""
        text = self.case.solution.text
        return tuple(prompt_text(text[a:b], self.max_chars // 2) for a, b in self.paragraphs)

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        """Cumulative lengths: at index k, the characters of the first k paragraphs, and of their numbers."""
        texts = (len(text) for text in self.texts)
        numbers = (len(f"[{n}] \n") for n in range(1, len(self.texts) + 1))
        return list(accumulate(texts, initial=0)), list(accumulate(numbers, initial=0))

    @cached_property
    def delimiter(self) -> str:
        """A delimiter absent from the text and unpredictable to the solver (injection guard): 8 hexadecimal digits."""
        digest = hashlib.sha256(
            self.case.solution.text.encode(errors="replace") + self.case.problem.prompt.encode(errors="replace")
        )
        delimiter = digest.hexdigest()[:8]
        while any(delimiter in part for part in (self.case.solution.text, self.case.problem.prompt)):
            delimiter = hashlib.sha256(delimiter.encode()).hexdigest()[:8]
        return delimiter

    @property
    def correct(self) -> bool:
        return self.case.outcome is Outcome.CORRECT

    def step_starts(self, steps: Sequence[Step]) -> tuple[int, ...]:
        """Return the number of each think step's first paragraph, ascending; it identifies the step."""
        starts = [a for a, _ in self.paragraphs]
        return tuple(bisect_right(starts, step.start) for step in steps if not step.is_answer)

    def start_of(self, number: int) -> int:
        """Return the character at which a paragraph begins."""
        return self.paragraphs[number - 1][0]

    def last_fitting(self, first: int, max_chars: int) -> int:
        """Return the last paragraph p for which ``first`` to p fit into ``max_chars`` characters; at least ``first``.

        Their numbers may take a fifth of ``max_chars`` in addition.
        """
        limits = zip(self._ends, (max_chars, max_chars // _NUMBERS_SHARE), strict=True)
        return max(first, min(bisect_right(ends, ends[first - 1] + limit) for ends, limit in limits) - 1)

    def first_fitting(self, last: int, max_chars: int) -> int:
        """Return the first paragraph p for which p to ``last`` fit in the same way; at most ``last``."""
        limits = zip(self._ends, (max_chars, max_chars // _NUMBERS_SHARE), strict=True)
        return min(last, max(bisect_left(ends, ends[last] - limit) for ends, limit in limits) + 1)


def number_solution(case: JudgeCase, max_chars: int = 100_000) -> NumberedSolution | None:
    """Number the paragraphs of a case; None if there is no answer block or nothing before it.

    ``max_chars``: most characters of the think block in one prompt.
    """
    text, division, answer = case.solution.text, case.divided(), case.answer_block()
    if answer is None or not case.steps or not case.steps[-1].is_answer or not division.thinking_text(text).strip():
        return None
    spans = paragraph_spans(text, division.thinking[1])
    return NumberedSolution(case, tuple(spans), prompt_text(answer, max_chars // 2), max_chars)


def format_ranges(step_starts: Sequence[int], last: int) -> str:
    """Format steps as paragraph ranges, ``1-2, 3, 4-7``; ``last`` is the last paragraph of the last step."""
    ends = [*(n - 1 for n in step_starts[1:]), last]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(step_starts, ends, strict=True))


def step_index(number: int, step_starts: Sequence[int]) -> int:
    """Return the index in ``step_starts`` (which begins with 1) of the step that contains a paragraph."""
    return bisect_right(step_starts, number) - 1
