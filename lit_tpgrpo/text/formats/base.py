"""The interface of solution formats, and the division of a completion's text that they return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lit_tpgrpo.text.paragraphs import Span


@dataclass(frozen=True, slots=True)
class Division:
    """Where a completion's thinking and its answer block lie, as half-open character spans without tags.

    Tags and what else lies between the two, and after the answer, belong to the answer's step, but to neither span. ``answer``
    is None if there is no answer block; the thinking then extends to the end of the text.
    """

    thinking: Span
    answer: Span | None

    @property
    def boundary(self) -> int | None:
        """The character at which the answer's step begins, its tag included; None if there is no answer block."""
        return None if self.answer is None else self.thinking[1]

    def thinking_text(self, text: str) -> str:
        """Return the thinking, without tags."""
        return text[slice(*self.thinking)]

    def answer_text(self, text: str) -> str | None:
        """Return the answer block, without tags; None if there is none."""
        return None if self.answer is None else text[slice(*self.answer)]


@runtime_checkable
class SolutionFormat(Protocol):
    """Divides completions into thinking and answer block.

    Steps, judges, the verifier and the reports of a run all see the same division: the verifier receives the answer block
    only, judges see it as the step with ``is_answer``. Public attributes that are bool, int, float or str, or those in an
    attribute ``settings``, are what stored outcomes and verdicts depend on. A class that inherits from this one gets all
    but ``divide`` as they are here.
    """

    def divide(self, text: str) -> Division:
        """Return where the thinking and the answer block of a completion lie. In time linear in the text."""
        ...

    def tags(self) -> tuple[str, ...]:
        """Return the texts that decoding must keep although a tokenizer may declare them special tokens."""
        return ()

    def missing(self) -> str:
        """Return the warning's words after "no solution of round 3": what solutions without an answer block lack."""
        return "has an answer block, so none can score"

    def read_prompt(self, ending: str) -> str:
        """Check the end of a prompt, after the user's message; return what to note about it in a few words, "" for nothing.

        Raises:
            ConfigError: no solution could have an answer block after such a prompt.
        """
        return ""
