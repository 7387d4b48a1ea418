"""TP-GRPO's labelling method: one protocol per outcome (paper, Stage I)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.correct import wrong_steps
from lit_tpgrpo.judges.generative.incorrect import matched_steps
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.queries import JudgeClient


@checked_arguments()
@dataclass(frozen=True)
class IntrinsicSignals:
    """The paper's method: label by the reflections of a correct solution, by the answer of an incorrect one.

    Args:
        reflections_per_question: most reflections that are traced in one question.
        steps_per_question: most steps that are verified in one question.
    """

    reflections_per_question: int = 8
    steps_per_question: int = 40

    @property
    def name(self) -> str:
        return "intrinsic"

    def __post_init__(self) -> None:
        if self.reflections_per_question < 1 or not 1 <= self.steps_per_question <= 400:
            raise ConfigError(
                "intrinsic judge: reflections_per_question must be at least 1 and steps_per_question from 1 to 400, got "
                f"{self.reflections_per_question} and {self.steps_per_question}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"method": self.name, "reflections": self.reflections_per_question, "steps": self.steps_per_question}

    async def flagged(self, client: JudgeClient, window: PromptWindow, step_starts: Sequence[int]) -> frozenset[int]:
        if window.numbered.correct:
            return await wrong_steps(
                client, window, step_starts, self.reflections_per_question, self.steps_per_question
            )
        # An empty answer adopts nothing.
        return await matched_steps(client, window, step_starts) if window.numbered.answer else frozenset()
