"""A chat client that compares and grades solutions of the embedded domain by their exact truth: a stand-in for a good judge.

With it the methods that need a model to compare or grade run on the quickstart, without an endpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lit_tpgrpo.chat import ChatError, ChatReply, ChatRequest
from lit_tpgrpo.chat.base import Fault
from lit_tpgrpo.datamodules.arithmetic.phrases import THINK_END
from lit_tpgrpo.datamodules.arithmetic.problems import Task
from lit_tpgrpo.datamodules.arithmetic.truth import Unparsable, solution_truth
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Problem

_FENCED = re.compile(r"^(THE PROBLEM|SOLUTION \d+)\n(=+ \w+ =+)\n(.*?)\n\2$", re.MULTILINE | re.DOTALL)
_ID = re.compile(r'"id": "([^"]+)"')
_WORST, _RIGHT = 1, 5  # the lowest grade, and what a right answer adds
_SHARE = 4  # what true steps add


def grade(problem: str, solution: str) -> int:
    """Return the grade of a solution by the share of its right steps: 1 to 5 for a wrong one, 6 to 10 for a right one.

    A text that is not in the domain's format has 1.
    """
    truth = solution_truth(Problem("", problem, ""), solution)
    if isinstance(truth, Unparsable):
        return _WORST
    share = sum(step.right for step in truth.steps) / len(truth.steps)
    return _WORST + (_RIGHT if truth.correct else 0) + round(_SHARE * share)


def _as_written(shown: str) -> str:
    """Undo what prompts do to a text: indented lines, and a control token in other brackets."""
    return shown.replace("\n    ", "\n").replace(f"‹{THINK_END.strip('<>')}›", THINK_END)


class TruthChat:
    """Answers the package's questions about groups of solutions: which of two is better, grades, and what a grading is worth.

    Solutions are told apart by ``grade``; every grading is worth the same.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"model": "truth of the embedded domain"}

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.settings

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        yield

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one question.

        Raises:
            ChatError: it is none about a group of solutions.
            ConfigError: the problem is not one of the embedded domain.
        """
        shown = {title: _as_written(text) for title, _, text in _FENCED.findall(request.shared)}
        asked = _ID.search(request.question)
        if asked is None or "THE PROBLEM" not in shown or len(shown) < 2:
            raise ChatError(
                Fault.REFUSED, f"expected a question about a group of solutions, got {request.content[:200]!r}"
            )
        problem = shown.pop("THE PROBLEM")
        try:
            Task.from_prompt(problem)
        except ValueError as error:
            raise ConfigError(
                f"TruthChat knows the truth of the embedded domain's problems alone, got {problem[:200]!r}. Give an LLM that "
                f"judges, with --config configs/judge/comparisons.yaml (Think-RM) or configs/judge/grades.yaml (RLSP, grades)"
            ) from error
        grades = [grade(problem, text) for text in shown.values()]
        match request.schema_name:
            case "comparison":
                first, second = grades
                answer: dict[str, Any] = {"preference": (first > second) - (first < second)}
            case "grading":
                principles = [{"principle": "true steps and a true answer", "weight": 100}]
                answer = {"principles": principles, "critiques": [f"{n} of 10" for n in grades], "grades": grades}
            case "meta":
                answer = {"score": 50}
            case name:
                raise ChatError(Fault.REFUSED, f"expected a comparison, a grading or its meta score, got {name!r}")
        return ChatReply(json.dumps({"id": asked.group(1), **answer}))

    def close(self) -> None:
        pass
