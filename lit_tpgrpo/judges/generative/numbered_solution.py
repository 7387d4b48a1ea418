"""What a judge is shown of a solution: the problem, the answer block and the think block with numbered paragraphs.

Numbers are made by code and stay the same in every question about a solution, so that all of them begin with the same
text. The judge answers in these numbers only; it never copies text.
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
from lit_tpgrpo.text.answers import THINK_END, answer_start
from lit_tpgrpo.text.paragraphs import Span, paragraph_spans

# Marks that a chat template, a tokenizer or a reader of replies could take for its own, by the forms that they have.
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
"""Of the characters that may be shown, this part may be paragraphs' numbers: thousands of one-letter paragraphs would make
a prompt of little else."""


def defused(text: str) -> str:
    """The text with control marks (``</think>``, ``<|im_end|>``, ``[INST]``) in brackets that mean nothing to a machine."""
    return _CONTROL.sub(lambda m: f"‹{m[m.lastindex or 0]}›", text)


def shown(text: str, max_chars: int) -> str:
    """The text as it is shown: without control marks, with its later lines indented, so that none of them can pass for the
    beginning of a numbered paragraph, and its middle left out if that is too long."""
    text = "\n    ".join(defused(text.strip()).splitlines())
    if len(text) > max_chars:
        half = max_chars // 2
        text = f"{text[:half]} [… {len(text) - 2 * half} characters left out …] {text[-half:]}"
    return text


@dataclass(frozen=True)
class NumberedSolution:
    """A case as it is shown. ``paragraphs`` are the spans of the think block, numbered from 1."""

    case: JudgeCase
    paragraphs: tuple[Span, ...]
    answer: str
    max_chars: int = 100_000
    """Of the think block in one prompt; a single paragraph may fill half of it. Numbers may take a fifth more."""

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The paragraphs as they are shown."""
        text = self.case.solution.text
        return tuple(shown(text[a:b], self.max_chars // 2) for a, b in self.paragraphs)

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        """At k, the characters of the first k paragraphs, and of the numbers that they are shown with."""
        texts = (len(text) for text in self.texts)
        numbers = (len(f"[{n}] \n") for n in range(1, len(self.texts) + 1))
        return list(accumulate(texts, initial=0)), list(accumulate(numbers, initial=0))

    @cached_property
    def fence(self) -> str:
        """A mark that stands nowhere in the text and that its author could not foresee."""
        digest = hashlib.sha256(
            self.case.solution.text.encode(errors="replace") + self.case.problem.prompt.encode(errors="replace")
        )
        fence = digest.hexdigest()[:8]
        while any(fence in part for part in (self.case.solution.text, self.case.problem.prompt)):
            fence = hashlib.sha256(fence.encode()).hexdigest()[:8]
        return fence

    @property
    def correct(self) -> bool:
        return self.case.outcome is Outcome.CORRECT

    def step_starts(self, steps: Sequence[Step]) -> tuple[int, ...]:
        """The name of each think step: the number of its first paragraph. Ascending."""
        starts = [a for a, _ in self.paragraphs]
        return tuple(bisect_right(starts, step.start) for step in steps if not step.is_answer)

    def start_of(self, number: int) -> int:
        """The character at which a paragraph begins."""
        return self.paragraphs[number - 1][0]

    def fitting(self, first: int, max_chars: int) -> int:
        """The last paragraph such that ``first`` to it fit: at most ``max_chars`` characters, and a fifth of numbers; ``first``
        at least."""
        limits = zip(self._ends, (max_chars, max_chars // _NUMBERS_SHARE), strict=True)
        return max(first, min(bisect_right(ends, ends[first - 1] + limit) for ends, limit in limits) - 1)

    def fitting_before(self, last: int, max_chars: int) -> int:
        """The first paragraph such that it to ``last`` fit in the same way; ``last`` at most."""
        limits = zip(self._ends, (max_chars, max_chars // _NUMBERS_SHARE), strict=True)
        return min(last, max(bisect_left(ends, ends[last] - limit) for ends, limit in limits) + 1)


def number_solution(case: JudgeCase, max_chars: int = 100_000) -> NumberedSolution | None:
    """The sheet of a case; None where there is no answer block or nothing before it. ``max_chars`` are shown at once."""
    text = case.solution.text
    answer = answer_start(text)
    if answer is None or not case.steps or not case.steps[-1].is_answer:
        return None
    spans = paragraph_spans(text, answer)
    if not any(text[a:b].replace("<think>", "", 1).strip() for a, b in spans):
        return None
    return NumberedSolution(case, tuple(spans), shown(text[answer:].removeprefix(THINK_END), max_chars // 2), max_chars)


def ranges(step_starts: Sequence[int], last: int) -> str:
    """Steps as paragraph ranges, ``1-2, 3, 4-7``; ``last`` is the last paragraph of the last step."""
    ends = [*(n - 1 for n in step_starts[1:]), last]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(step_starts, ends, strict=True))


def step_of(number: int, step_starts: Sequence[int]) -> int:
    """The place in ``step_starts`` of the step that a paragraph lies in. ``step_starts`` begins with 1."""
    return bisect_right(step_starts, number) - 1
