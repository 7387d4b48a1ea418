"""The outcome reward: the same number for every correct solution, another one for every other."""

from __future__ import annotations

import math

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rewards.base import RewardCase


@checked_arguments()
class OutcomeReward:
    """Outcome reward: ``correct`` if the answer is right, ``incorrect`` if it is not (UNVERIFIABLE included).

    The paper's is +1 and -1, which is also the reward of a run without ``data.rewards``; DAPO's code has +1 and -1,
    DeepSeek-R1's accuracy reward 1 and 0. Alone, both give the same advantages but for ``eps``: standardising removes scale
    and shift.

    What this term (or a subclass of it) gives is the *outcome part* of a reward, by which TP-GRPO credits the thoughts of
    incorrect solutions; see ``lit_tpgrpo.credit.group_relative.RewardAdvantage``.

    Args:
        correct: reward of a CORRECT solution.
        incorrect: reward of any other one, less than ``correct``.

    Raises:
        ConfigError: ``incorrect`` is not less than ``correct``, or one is not finite.
    """

    def __init__(self, correct: float = 1.0, incorrect: float = -1.0) -> None:
        if not -math.inf < incorrect < correct < math.inf:
            raise ConfigError(f"incorrect must be less than correct, both finite; got {incorrect} and {correct}")
        self.correct = correct
        self.incorrect = incorrect

    def __call__(self, case: RewardCase) -> float:
        return self.correct if case.outcome is Outcome.CORRECT else self.incorrect
