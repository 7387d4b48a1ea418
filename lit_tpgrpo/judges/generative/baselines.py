"""The paper's baseline methods: an LLM that labels many steps in one request (LLM-as-judge), and one request per step.

Both check the maths themselves, while TP-GRPO's judge only reads and compares. They distinguish right and wrong steps,
whatever the outcome; in an incorrect solution a wrong step is labelled MATCHED (penalised) and a right one UNMATCHED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.async_bridge import gather_or_cancel
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.methods import judged_wrong, make_query, vote_strict
from lit_tpgrpo.judges.generative.numbered_solution import format_ranges
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import Question
from lit_tpgrpo.judges.generative.queries import JudgeClient
from lit_tpgrpo.judges.generative.verdicts import JudgementsVerdict, StepVerdict


@checked_arguments()
@dataclass(frozen=True)
class DirectLabels:
    """LLM-as-judge: label every step directly, many steps per question.

    Args:
        steps_per_question: most steps in one question.
    """

    steps_per_question: int = 40

    @property
    def name(self) -> str:
        return "llm_as_judge"

    def __post_init__(self) -> None:
        if not 1 <= self.steps_per_question <= 400:
            raise ConfigError(f"LLM-as-judge: steps_per_question must be from 1 to 400, got {self.steps_per_question}")

    @property
    def settings(self) -> dict[str, Any]:
        return {"method": self.name, "steps": self.steps_per_question}

    async def flagged(self, client: JudgeClient, window: PromptWindow, step_starts: Sequence[int]) -> frozenset[int]:
        chunks = [
            range(k, min(k + self.steps_per_question, j))
            for i, j in window.parts(step_starts)
            for k in range(i, j, self.steps_per_question)
        ]
        wrong = await gather_or_cancel(*(self._wrong(client, window, step_starts, chunk) for chunk in chunks))
        return frozenset[int]().union(*wrong)

    async def _wrong(
        self, client: JudgeClient, window: PromptWindow, step_starts: Sequence[int], asked: range
    ) -> frozenset[int]:
        def check(verdict: JudgementsVerdict) -> tuple[frozenset[int], int]:
            return judged_wrong(verdict, step_starts, asked)

        last = window.end(step_starts, asked[-1])
        query = make_query(
            window,
            Question.LABELLING,
            (step_starts[asked[0]], last),
            JudgementsVerdict,
            check,
            steps=format_ranges(step_starts[asked[0] : asked[-1] + 1], last),
            asked=[step_starts[i] for i in asked],
            correct=window.numbered.correct,
        )
        return await vote_strict(client, query)


@checked_arguments()
@dataclass(frozen=True)
class StepByStep:
    """In the manner of GenPRM (2504.00891): one question per step; works best with a thinking judge."""

    @property
    def name(self) -> str:
        return "genprm"

    @property
    def settings(self) -> dict[str, Any]:
        return {"method": self.name}

    async def flagged(self, client: JudgeClient, window: PromptWindow, step_starts: Sequence[int]) -> frozenset[int]:
        wrong = await gather_or_cancel(*(self._wrong(client, window, step_starts, i) for i in range(len(step_starts))))
        return frozenset[int]().union(*wrong)

    async def _wrong(
        self, client: JudgeClient, window: PromptWindow, step_starts: Sequence[int], index: int
    ) -> frozenset[int]:
        def check(verdict: StepVerdict) -> tuple[frozenset[int], int]:
            return frozenset({index} if verdict.wrong else ()), 0

        step, last = step_starts[index], window.end(step_starts, index)
        query = make_query(
            window,
            Question.STEP,
            (step, last),
            StepVerdict,
            check,
            step=step,
            last=last,
            correct=window.numbered.correct,
        )
        return await vote_strict(client, query)
