"""The thoughts of a solution as cells of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lit_tpgrpo.records import CreditedSolution
from lit_tpgrpo.redaction import redacted


class ThoughtCells(NamedTuple):
    """One thought: its number from 1, label, rewards, length in tokens, and text."""

    thought: int
    label: str
    process_reward: float
    advantage: float
    tokens: int
    text: str


def thought_cells(solution: CreditedSolution, max_chars: int) -> Iterator[ThoughtCells]:
    """Yield the thoughts of a solution in order.

    Args:
        solution: judged and credited.
        max_chars: longer texts are shortened in the middle.
    """
    judged = solution.judged
    for number, (thought, reward) in enumerate(zip(solution.thoughts, solution.process_rewards, strict=True), 1):
        steps = judged.verdict.steps[thought.first_step : thought.end_step]
        text = judged.solution.text[steps[0].start : steps[-1].end].strip(" \n")
        tokens = thought.token_end - thought.token_start
        advantage = float(solution.advantages[thought.token_start]) if tokens > 0 else 0.0
        yield ThoughtCells(number, thought.label.value, reward, advantage, tokens, middle_cut(text, max_chars))


def middle_cut(text: str, limit: int) -> str:
    """Shorten a text in the middle if it is longer than ``limit`` characters; API keys go first: half of one could remain."""
    text = redacted(text)
    return text if len(text) <= limit else f"{text[: limit // 2]} […] {text[-limit // 2 :]}"


def writable(text: str) -> str:
    """Redact API keys; replace a lone surrogate, which cannot be encoded, by its escape (``\\udc80``)."""
    return redacted(text).encode("utf-8", "backslashreplace").decode()
