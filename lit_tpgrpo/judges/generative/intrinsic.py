"""TP-GRPO's judge: each outcome has its protocol (paper, Stage I)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.asking import Asker
from lit_tpgrpo.judges.generative.correct import wrong_steps
from lit_tpgrpo.judges.generative.incorrect import matched_steps
from lit_tpgrpo.judges.generative.views import Reader


@checked_arguments()
@dataclass(frozen=True)
class IntrinsicSignals:
    """Reflections of a correct solution, the answer of an incorrect one.

    Args:
        reflections_per_question: reflections that are traced together.
        steps_per_question: steps that are verified together.
    """

    reflections_per_question: int = 8
    steps_per_question: int = 40
    name: ClassVar[str] = "intrinsic"

    def __post_init__(self) -> None:
        if self.reflections_per_question < 1 or not 1 <= self.steps_per_question <= 400:
            raise ConfigError(
                "intrinsic judge: reflections_per_question must be at least 1 and steps_per_question from 1 to 400, got "
                f"{self.reflections_per_question} and {self.steps_per_question}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"method": self.name, "reflections": self.reflections_per_question, "steps": self.steps_per_question}

    async def flagged(self, asker: Asker, reader: Reader, names: Sequence[int]) -> frozenset[int]:
        if reader.sheet.correct:
            return await wrong_steps(asker, reader, names, self.reflections_per_question, self.steps_per_question)
        # An empty answer adopts nothing.
        return await matched_steps(asker, reader, names) if reader.sheet.answer else frozenset()
