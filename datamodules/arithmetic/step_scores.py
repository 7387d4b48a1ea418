"""ArithmeticStepScores: exact step scores of chains of the embedded domain, from the problem's statement alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.arithmetic.problems import Task
from lit_tpgrpo.datamodules.arithmetic.truth import states_right
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.search import StepScorer
from lit_tpgrpo.seeds import derived_seed

_BEGINNING = "Working modulo "


@checked_arguments()
class ArithmeticStepScores(StepScorer):
    """Score a step 1 if every equation in force after it is true, else 0: a process reward model that never errs, or seldom.

    So a step that builds on an error has 0 and its correction has 1. The answer block has 1 if it gives the result of the last
    equation in force, and all are true. No gold answer is read: the problem's operations are computed. A step of no known form,
    and all after it, has 0.

    Args:
        error: probability that a step's score is the other one, to see what errors of a process reward model cost. Which ones
            depends on the seed, the statement and the text up to the step's end alone.
        seed: another seed errs on other steps.

    Raises:
        ConfigError: error is not in [0, 1].
    """

    def __init__(self, error: float = 0.0, seed: int = 0) -> None:
        if not 0 <= error <= 1:
            raise ConfigError(f"error must be in [0, 1], the probability of a wrong score, got {error}")
        self.error = error
        self.seed = seed

    def scores(self, cases: Sequence[tuple[str, tuple[str, ...]]]) -> Sequence[Sequence[float]]:
        return [self._scores(*case) for case in cases]

    def _scores(self, prompt: str, steps: Sequence[str]) -> list[float]:
        statement = _BEGINNING + prompt.partition(_BEGINNING)[2].partition("?")[0] + "?"
        if statement not in prompt:
            raise ConfigError(f"ArithmeticStepScores: expected a problem of the embedded domain, got {prompt[:200]!r}")
        right = states_right(Task.from_prompt(statement), steps)
        scores, text = [], ""
        for step, is_right in zip(steps, right, strict=True):
            text += step
            errs = random.Random(derived_seed(self.seed, "step scores", statement, text)).random() < self.error
            scores.append(float(is_right is not errs))
        return scores
