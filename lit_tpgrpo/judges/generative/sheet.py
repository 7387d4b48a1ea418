"""What a judge is shown of a solution: the problem, the answer block and the think block with numbered paragraphs.

Numbers are made by code and stay the same in every question about a solution, so that all of them begin with the same
text. The judge answers in these numbers only; it never copies text.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.records import Outcome, Step
from lit_tpgrpo.text.answers import THINK_END, answer_start
from lit_tpgrpo.text.paragraphs import Span, paragraph_spans

# Marks that a chat template, a tokenizer or a reader of replies could take for its own.
_CONTROL = re.compile(
    r"<(/?[A-Za-z_]{1,24}|/?[|｜][^<>\n]{1,60}[|｜])>|\[(/?(?:INST|SYS|SYSTEM|USER|ASSISTANT)[A-Z_]*)\]"
)


def defused(text: str) -> str:
    """The text with control marks (``</think>``, ``<|im_end|>``, ``[INST]``) in brackets that mean nothing to a machine."""
    return _CONTROL.sub(lambda m: f"‹{m[1] or m[2]}›", text)


def shown(text: str, max_chars: int) -> str:
    """The text as it is shown: without control marks, its middle left out if it is too long, and with its later lines
    indented, so that none of them can pass for the beginning of a numbered paragraph."""
    text = defused(text.strip())
    if len(text) > max_chars:
        half = max_chars // 2
        text = f"{text[:half]} [… {len(text) - 2 * half} characters left out …] {text[-half:]}"
    return "\n    ".join(text.splitlines())


@dataclass(frozen=True)
class Sheet:
    """A case as it is shown. ``paragraphs`` are the spans of the think block, numbered from 1."""

    case: JudgeCase
    paragraphs: tuple[Span, ...]
    answer: str
    max_chars: int = 100_000
    """Of the think block in one prompt; a single paragraph may fill half of it."""

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The paragraphs as they are shown."""
        text = self.case.solution.text
        return tuple(shown(text[a:b], self.max_chars // 2) for a, b in self.paragraphs)

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

    def names(self, steps: Sequence[Step]) -> tuple[int, ...]:
        """The name of each think step: the number of its first paragraph. Ascending."""
        starts = [a for a, _ in self.paragraphs]
        return tuple(bisect_right(starts, step.start) for step in steps if not step.is_answer)

    def start_of(self, number: int) -> int:
        """The character at which a paragraph begins."""
        return self.paragraphs[number - 1][0]

    def fitting(self, first: int, max_chars: int) -> int:
        """The last paragraph such that ``first`` to it are at most ``max_chars`` characters; ``first`` at least."""
        last, used = first, len(self.texts[first - 1])
        while last < len(self.texts) and used + len(self.texts[last]) <= max_chars:
            used += len(self.texts[last])
            last += 1
        return last

    def fitting_before(self, last: int, max_chars: int) -> int:
        """The first paragraph such that it to ``last`` are at most ``max_chars`` characters; ``last`` at most."""
        first, used = last, len(self.texts[last - 1])
        while first > 1 and used + len(self.texts[first - 2]) <= max_chars:
            used += len(self.texts[first - 2])
            first -= 1
        return first


def make_sheet(case: JudgeCase, max_chars: int = 100_000) -> Sheet | None:
    """The sheet of a case; None where there is no answer block or nothing before it. ``max_chars`` are shown at once."""
    text = case.solution.text
    answer = answer_start(text)
    if answer is None or not case.steps or not case.steps[-1].is_answer:
        return None
    spans = paragraph_spans(text, answer)
    if not any(text[a:b].replace("<think>", "", 1).strip() for a, b in spans):
        return None
    return Sheet(case, tuple(spans), shown(text[answer:].removeprefix(THINK_END), max_chars // 2), max_chars)


def ranges(names: Sequence[int], last: int) -> str:
    """Steps as paragraph ranges, ``1-2, 3, 4-7``; ``last`` is the last paragraph of the last step."""
    ends = [*(n - 1 for n in names[1:]), last]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(names, ends, strict=True))


def step_of(number: int, names: Sequence[int]) -> int:
    """The place in ``names`` of the step that a paragraph lies in. ``names`` begins with 1."""
    return bisect_right(names, number) - 1
