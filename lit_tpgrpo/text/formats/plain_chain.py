"""Solutions without tags, of base and instruct models: the paragraph that states the answer is the answer block."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.text.boxes import boxed_answer_start
from lit_tpgrpo.text.formats.base import Division
from lit_tpgrpo.text.formats.prefill import find_prefill
from lit_tpgrpo.text.paragraphs import paragraph_spans

Evidence = Literal["box", "stated", "code", "last"]

_STATED = re.compile(
    r"^[ \t]{0,8}####"  # GSM8K: "#### 5"
    r"|^[*#> \t]{0,8}(?:the )?(?:final |correct )?answer[* \t]{0,8}[:：]"  # "**Final answer:** 5"
    r"|\banswers?\b(?: (?:to|of|for|in)\b[^.,;?!\n]{1,60}?)?[ \t]{0,3}"  # "the answer to the problem is 5"
    r"(?:\b(?:is|are|equals?|comes to|(?:must|should|will|would) be)\b|[=:：])",
    re.MULTILINE | re.IGNORECASE,
)
_FENCE = re.compile(r"^[ \t]{0,8}```", re.MULTILINE)


@checked_arguments()
@dataclass(frozen=True)
class PlainChain:
    """Format of models without think tags: the chain is the whole text, and the paragraph that states the answer ends it.

    The answer block begins with that paragraph and extends to the end of the text, without white space at its end. It is the
    last one with a box, or else the last one that states the answer in words (``The answer is 5``, ``Answer: 5``,
    ``#### 5``). Paragraphs end at blank lines. All before it is thinking, none if the first paragraph states the answer. A text
    that states no answer has no answer block.

    A box is read as in the whole text, so cutting the text changes no boxed answer; boxes in several paragraphs that are one
    answer (see ``lit_tpgrpo.text.boxes``) are kept together.

    Args:
        answer: what states the answer, in the order in which it is looked for: ``box``, ``stated``, ``code`` (a code fence, for
            programs), ``last`` (the last paragraph, whatever it says; also where sampling was cut off).

    Raises:
        ConfigError: ``answer`` is empty.
    """

    answer: tuple[Evidence, ...] = ("box", "stated")

    def __post_init__(self) -> None:
        if not self.answer:
            raise ConfigError(f"PlainChain: answer must name one of {', '.join(_FINDERS)} or several, got none")

    @property
    def settings(self) -> Mapping[str, Any]:
        """What states an answer, stored with a round."""
        return {"answer": list(self.answer)}

    def tags(self) -> tuple[str, ...]:
        """Return nothing: there are no tags."""
        return ()

    def missing(self) -> str:
        """Return what a solution without an answer block lacks."""
        return (
            f"states an answer by {' or '.join(self.answer)}, so none can score. Ask for it in data.prompt_template, raise "
            "sampling.max_new_tokens, or let the last paragraph count (--data.format.answer '[box, stated, last]')"
        )

    def read_prompt(self, ending: str) -> str:
        """Return a note if the prompt opens a think block, which this format does not look for, or closes an empty one."""
        prefill = find_prefill(ending)
        if prefill is None:
            return ""
        if prefill.closed:
            return f"The prompt {prefill}: solutions begin after it."
        return (
            f"The prompt {prefill}, and PlainChain looks for no tag: a box in the thinking may be read as the answer. "
            "lit_tpgrpo.ThinkTags reads only what follows the thinking."
        )

    def divide(self, text: str) -> Division:
        """Divide a completion; see the class.

        >>> PlainChain().divide("2+2 is 4.\\n\\nThe answer is 4.")
        Division(thinking=(0, 11), answer=(11, 27))
        """
        at = next((at for name in self.answer if (at := _FINDERS[name](text)) is not None), None)
        if at is None:
            return Division((0, len(text)), None)
        starts = [start for start, _ in paragraph_spans(text)]
        start = starts[bisect_right(starts, at) - 1]
        return Division((0, start), (start, max(start, len(text.rstrip()))))


def _stated(text: str) -> int | None:
    """Return where the last sentence or line begins that states an answer in words."""
    at = None
    for found in _STATED.finditer(text):
        at = found.start()
    return at


def _code(text: str) -> int | None:
    """Return where the last code fence opens."""
    fences = [fence.start() for fence in _FENCE.finditer(text)]
    return fences[(len(fences) - 1) // 2 * 2] if fences else None


def _last(text: str) -> int | None:
    """Return the last character that is no white space."""
    return len(text.rstrip()) - 1 if text.strip() else None


_FINDERS: Mapping[Evidence, Callable[[str], int | None]] = {
    "box": boxed_answer_start,
    "stated": _stated,
    "code": _code,
    "last": _last,
}
