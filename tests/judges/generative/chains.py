"""Solutions with known labels, and a chat engine that answers about them by a rule: helpers of the judge's tests."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lit_tpgrpo.chat.base import ChatReply, ChatRequest
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.records import Outcome, Problem, Solution, StopReason
from lit_tpgrpo.text.steps import segment_steps

# Paragraph 3 is wrong, 4 builds on it, 5 is a plan, 6 finds the error, 7 goes on, 8 doubts without result.
PARAGRAPHS = (
    "I need 6 * 7 + 5.",
    "First the product.",
    "6 * 7 = 41.",
    "So 41 + 5 = 46.",
    "I will look at it again from the start.",
    "Wait, 6 * 7 = 41 is wrong. It should be 42.",
    "Then 42 + 5 = 47.",
    "Hmm, is 42 + 5 = 47? Yes.",
)
ANSWER = "So the result is \\boxed{47}."


def make_case(
    paragraphs: tuple[str, ...] = PARAGRAPHS,
    answer: str | None = ANSWER,
    outcome: Outcome = Outcome.CORRECT,
    problem: str = "What is 6 * 7 + 5?",
) -> JudgeCase:
    """A case whose tokens are its characters."""
    text = "\n\n".join(paragraphs) + ("" if answer is None else f"\n</think>\n\n{answer}")
    starts = tuple(range(len(text)))
    solution = Solution("p", 0, (1,), starts, (0.0,) * len(starts), StopReason.EOS, 0, text, starts)
    steps = segment_steps(text, starts, len(starts))
    return JudgeCase(Problem("p", problem, "47"), solution, outcome, steps)


def asked_id(prompt: str) -> str:
    """The id that a question wants to see again."""
    return re.findall(r'"id": "([0-9a-f]{4})"', prompt)[-1]


def asked_numbers(prompt: str, before: str, after: str) -> list[int]:
    """The numbers that a question lists between two phrases."""
    return [int(n) for n in re.findall(r"\d+", prompt.rsplit(before, 1)[1].split(after, 1)[0])]


def verdict(name: str, prompt: str) -> dict[str, Any]:
    """The right verdict on any question about ``PARAGRAPHS``, with any number of others before and behind them."""
    if name == "reply":  # the probe, which asks for nothing in particular
        return {}
    reply: dict[str, Any] = {"id": asked_id(prompt)}
    shown = re.search(r"^\[(\d+)\] 6 \* 7 = 41\.$", prompt, re.MULTILINE)
    before = int(shown[1]) - 3 if shown else 0
    wrong = (before + 3, before + 4)
    if name == "segmentation":
        first, last = asked_numbers(prompt, "divide paragraphs", "into")
        reply["steps"] = [[n, n] for n in range(first, last + 1)]
    elif name == "reflections":
        reply["reflections"] = [before + 6, before + 8]
    elif name == "sources":
        numbers = asked_numbers(prompt, "back to what they correct:", ".")
        mistake = {before + 6: [[before + 3, before + 5]]}
        reply["sources"] = [{"reflection": n, "intervals": mistake.get(n, [])} for n in numbers]
    elif name in ("verification", "labelling"):
        asked = asked_numbers(prompt, "each of the steps ", ".")
        reply["judgements"] = [{"step": n, "wrong": n in wrong} for n in asked]
    elif name == "matching":
        reply["matched"] = [before + 6, before + 7]
    elif name == "step":
        reply["wrong"] = asked_numbers(prompt, "judge one step, paragraphs", "to")[0] in wrong
    return reply


class RuleChat:
    """A chat engine in this process that answers by a function of (question, request); counts what it is asked."""

    def __init__(self, answer: Callable[[str, ChatRequest], str] | None = None) -> None:
        self.answer = answer or (lambda name, request: json.dumps(verdict(name, request.content)))
        self.requests: list[ChatRequest] = []
        self.open = 0

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": "rule"}

    identity = settings

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        text = self.answer(request.schema_name, request)
        return ChatReply(text, prompt_tokens=len(request.content), completion_tokens=len(text))

    def close(self) -> None:
        pass
