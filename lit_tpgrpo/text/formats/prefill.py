"""Recognise a think block that a prompt opens, or opens and closes, before the solution begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KNOWN_TAGS: Mapping[str, str] = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|begin_of_thought|>": "<|end_of_thought|>",
}
"""Opening and closing tags of models' families."""
HARMONY_START = "<|start|>assistant"
"""How a prompt of gpt-oss ends."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """A think block at the end of a prompt. ``start``: where its opening tag begins; ``closed``: it is empty and closed."""

    start: int
    opening: str
    closed: bool

    def __str__(self) -> str:
        return f"{'opens and closes an empty' if self.closed else 'opens a'} think block ({self.opening})"


def find_prefill(ending: str, opening: str = "", closing: tuple[str, ...] = ()) -> Prefill | None:
    """Return the think block in which a prompt ends; None if it ends in none. Only white space may follow its tags.

    Args:
        ending: the end of the prompt.
        opening: a tag besides ``KNOWN_TAGS``.
        closing: its closing tags.
    """
    for tag, ends in [(opening, closing), *((a, (b,)) for a, b in KNOWN_TAGS.items())]:
        start = ending.rfind(tag) if tag else -1
        if start >= 0 and (said := ending[start + len(tag) :].strip()) in ("", *ends):
            return Prefill(start, tag, said != "")
    return None


def is_harmony(ending: str) -> bool:
    """Return whether a prompt ends as those of gpt-oss do.

    >>> is_harmony("<|end|><|start|>assistant"), is_harmony("<|im_start|>assistant\\n")
    (True, False)
    """
    return HARMONY_START in ending
