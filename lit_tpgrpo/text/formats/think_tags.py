"""Thinking between tags, the answer block after it: DeepSeek-R1, Qwen3, Magistral and their relatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.text.formats.base import Division
from lit_tpgrpo.text.formats.prefill import find_prefill, is_harmony

THINK, THINK_END = "<think>", "</think>"


@checked_arguments()
@dataclass(frozen=True)
class ThinkTags:
    """Format of reasoning models that close their thinking with a tag: the answer block is what follows it.

    The answer block begins at the last closing tag that anything follows: a policy may write the tag in its thinking.
    White space and repeated closing tags at the end of the text belong to no part. The opening tag is not required, since
    many chat templates put it into the prompt. Tags that a tokenizer declares special are kept in the text.

    Args:
        opening: the tag before the thinking.
        closing: the tag that ends it.
        other_closing: more tags, each of which ends it as well.
        answer_opening: a tag before the answer, such as ``<answer>``: where the block has it, the answer block is only what
            the last such tag encloses.
        answer_closing: the tag after it.

    Raises:
        ConfigError: a closing tag is empty.
    """

    opening: str = THINK
    closing: str = THINK_END
    other_closing: tuple[str, ...] = ()
    answer_opening: str = ""
    answer_closing: str = ""

    def __post_init__(self) -> None:
        if not all(self._closing):
            raise ConfigError(f"ThinkTags: closing tags must be texts such as {THINK_END}, got an empty one")

    @property
    def _closing(self) -> tuple[str, ...]:
        return (self.closing, *self.other_closing)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The tags, stored with a round."""
        answer = {"answer_opening": self.answer_opening, "answer_closing": self.answer_closing}
        return {"opening": self.opening, "closing": list(self._closing)} | answer

    def tags(self) -> tuple[str, ...]:
        """Return all tags."""
        return tuple(filter(None, (self.opening, *self._closing, self.answer_opening, self.answer_closing)))

    def missing(self) -> str:
        """Return what a solution without an answer block lacks."""
        shown = " or ".join(self._closing)
        return (
            f"closes its think block: answers are looked for after {shown} only, so none can score. Take a reasoning model, "
            "or raise sampling.max_new_tokens"
        )

    def read_prompt(self, ending: str) -> str:
        """Return a note if the prompt opens the think block.

        Raises:
            ConfigError: it closes the think block, opens that of another format, or is one of gpt-oss.
        """
        if is_harmony(ending):
            raise ConfigError(
                f"data.format looks for {self.closing}, and the prompt is one of gpt-oss; set data.format to lit_tpgrpo.Harmony"
            )
        prefill = find_prefill(ending, self.opening, self._closing)
        if prefill is None:
            return ""
        if prefill.closed:
            raise ConfigError(
                f"data.format looks for {self.closing} in solutions, and the prompt {prefill}, so they will not think; set "
                "data.chat_template_kwargs.enable_thinking to true if the template knows it, or data.format to "
                "lit_tpgrpo.PlainChain"
            )
        if prefill.opening != self.opening:
            raise ConfigError(
                f"data.format looks for {self.closing}, and the prompt {prefill}; set data.format to lit_tpgrpo.ThinkTags with "
                f"opening {prefill.opening} and its closing tag"
            )
        return f"The prompt {prefill}: solutions begin inside it."

    def divide(self, text: str) -> Division:
        """Divide a completion; see the class.

        >>> text = "<think>2+2</think> It is 4."
        >>> ThinkTags().divide(text)
        Division(thinking=(7, 10), answer=(18, 27))
        """
        start = self._thinking_start(text)
        end = self._answer_end(text)
        begin, after = max((text.rfind(tag, 0, end), len(tag)) for tag in self._closing)
        if begin < 0:
            return Division((start, len(text)), None)
        return Division((min(start, begin), begin), self._inside_answer_tags(text, begin + after, end))

    def _thinking_start(self, text: str) -> int:
        """Return the index behind the opening tag if the text begins with it, else 0."""
        start = len(text) - len(text.lstrip())
        return start + len(self.opening) if self.opening and text.startswith(self.opening, start) else 0

    def _answer_end(self, text: str) -> int:
        """Return the index at which the answer block ends: before the white space and repeated closing tags at the end.

        The first closing tag of the text is never removed.
        """
        found = [at + len(tag) for tag in self._closing if (at := text.find(tag)) >= 0]
        end, first = _without_space(text, len(text)), min(found, default=len(text))
        while (tag := next((t for t in self._closing if text.endswith(t, first, end)), None)) is not None:
            end = _without_space(text, end - len(tag))
        return end

    def _inside_answer_tags(self, text: str, start: int, end: int) -> tuple[int, int]:
        """Return what the last answer tag encloses, the whole block if it has none."""
        begin = text.rfind(self.answer_opening, start, end) if self.answer_opening else -1
        start = start if begin < 0 else begin + len(self.answer_opening)
        close = text.find(self.answer_closing, start, end) if self.answer_closing else -1
        return start, end if close < 0 else close


def _without_space(text: str, end: int) -> int:
    """Return the index at which ``text[:end]`` ends without its trailing white space."""
    while end and text[end - 1].isspace():
        end -= 1
    return end
