"""The length reward of Kimi k1.5 (arXiv 2501.12599, section 2.3.3): shorter than the other solutions of the problem."""

from __future__ import annotations

from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rewards.base import RewardCase


class GroupLengthReward:
    """Length reward relative to the group, in [-0.5, 0.5].

        lambda_i = 0.5 - (|y_i| - min |y|) / (max |y| - min |y|)
        R(y_i) = lambda_i if y_i is correct, min(0, lambda_i) if it is not; 0 if all lengths are equal

    So short correct solutions gain, long ones lose, and an incorrect one never gains. Lengths are tokens of the completions,
    EOS included, over all solutions of the group. Kimi k1.5 adds it with a weight, and not from the start: it slows down
    training in the beginning.
    """

    def __call__(self, case: RewardCase) -> float:
        lengths = [len(s.solution.completion_ids) for s in case.group]
        shortest, longest = min(lengths), max(lengths)
        if shortest == longest:
            return 0.0
        value = 0.5 - (len(case.solution.completion_ids) - shortest) / (longest - shortest)
        return value if case.outcome is Outcome.CORRECT else min(0.0, value)
