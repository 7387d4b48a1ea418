"""OpenAI's harmony format (gpt-oss): thinking in the channel ``analysis``, the answer in the channel ``final``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.text.formats.base import Division
from lit_tpgrpo.text.formats.prefill import HARMONY_START, is_harmony

_CONTROL = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>")


def _header(channel: str) -> str:
    """Return the pattern of a message's header; an assistant's first message has no ``<|start|>``."""
    name = r"[^<]{0,80}+"
    return rf"(?:<\|start\|>{name})?<\|channel\|>\s{{0,8}}+{channel}\b{name}(?:<\|constrain\|>{name})?<\|message\|>"


_FINAL = re.compile(r"(?:<\|end\|>\s{0,8}+)?" + _header("final"))
_OPENING = re.compile(r"\s{0,8}+" + _header("analysis"))
_ANALYSIS = re.compile(_header("analysis"))
_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")


@dataclass(frozen=True)
class Harmony:
    """Format of gpt-oss: the answer block is the message of the last channel ``final``, all before its header is thinking.

    ``<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...``: these control tokens are kept
    in the text, though the tokenizer declares them special. A final message ends at the next control token. Comments and tool
    calls (channel ``commentary``) before it belong to the thinking. Without a final message there is no answer block.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """Nothing: there is nothing to set."""
        return {}

    def tags(self) -> tuple[str, ...]:
        """Return the control tokens."""
        return _CONTROL

    def missing(self) -> str:
        """Return what a solution without an answer block lacks."""
        return (
            "has a message in the channel final, where answers are looked for, so none can score. Take a model of the gpt-oss "
            "family, or raise sampling.max_new_tokens"
        )

    def read_prompt(self, ending: str) -> str:
        """Return a note if the prompt begins the analysis.

        Raises:
            ConfigError: it is no prompt of gpt-oss, or begins the final message itself.
        """
        if ending.strip() and not is_harmony(ending):
            raise ConfigError(
                f"data.format looks for the channels of gpt-oss, and the prompt does not end with {HARMONY_START}; set "
                "data.format to lit_tpgrpo.ThinkTags or lit_tpgrpo.PlainChain"
            )
        if _FINAL.search(ending):
            raise ConfigError(
                "data.format looks for a message in the channel final, and the prompt begins it, so solutions hold no header; "
                "set data.format to lit_tpgrpo.PlainChain"
            )
        return "The prompt begins the channel analysis: solutions begin inside it." if _ANALYSIS.search(ending) else ""

    def divide(self, text: str) -> Division:
        """Divide a completion; see the class.

        >>> text = "<|channel|>analysis<|message|>2+2<|end|><|start|>assistant<|channel|>final<|message|>4"
        >>> division = Harmony().divide(text)
        >>> division.thinking_text(text), division.answer_text(text)
        ('2+2', '4')
        """
        opening = _OPENING.match(text)
        start = opening.end() if opening else 0
        final = max(_FINAL.finditer(text), key=lambda header: header.start(), default=None)
        if final is None:
            return Division((start, len(text)), None)
        end = _END.search(text, final.end())
        return Division((min(start, final.start()), final.start()), (final.end(), end.start() if end else len(text)))
