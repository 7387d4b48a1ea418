"""A penalty of repeated n-grams, after "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373, appendix C.2)."""

from __future__ import annotations

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.rewards.base import RewardCase


@checked_arguments()
class RepetitionPenalty:
    """Penalty of repetition: minus the share of the completion's n-grams of tokens that occurred before, in (-1, 0].

        R(y) = distinct n-grams / n-grams - 1, and 0 if y has fewer than n tokens

    This is the form of open-r1 and TRL (``get_repetition_penalty_reward``, whose default n is 3); the paper, which takes a
    penalty off the tokens that repeat one by one, has n = 40. Long mathematical texts repeat short n-grams without fault:
    small n punish length.

    Args:
        n: length of the n-grams in tokens.

    Raises:
        ConfigError: n is not positive.
    """

    def __init__(self, n: int = 40) -> None:
        if n < 1:
            raise ConfigError(f"n must be at least 1, got {n}")
        self.n = n

    def __call__(self, case: RewardCase) -> float:
        ids = tuple(case.solution.completion_ids.tolist())
        total = len(ids) - self.n + 1
        if total < 1:
            return 0.0
        return len({ids[i : i + self.n] for i in range(total)}) / total - 1.0
