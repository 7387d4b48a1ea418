"""Credit of process-guided code RL (arXiv 2410.17621, second-hand): step scores as dense rewards beside the outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.baselines import Baseline
from lit_tpgrpo.credit.evidence_access import check_step_count, evidence_of
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage
from lit_tpgrpo.credit.merging import merge_thoughts, single_steps, thought_lengths
from lit_tpgrpo.credit.per_solution import credit_outcome
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import StepScores
from lit_tpgrpo.functional.advantages import suffix_sum_advantages
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


def dense_rewards(scores: Sequence[float | None], weight: float) -> list[float]:
    """Compute the reward at the end of each step, weight * s_j / S with S the number of steps that have a score; 0 without one.

    The division is the source's guard against hacking by more lines: the rewards of a solution add up to at most ``weight``.

    >>> dense_rewards([1.0, None, 1.0, -1.0, -1.0], 0.5)
    [0.125, 0.0, 0.125, -0.125, -0.125]
    """
    scored = sum(score is not None for score in scores)
    return [0.0 if score is None else weight * score / scored for score in scores]


@checked_arguments()
class DenseRewardCredit(GroupRelativeCredit):
    """Credit the tokens of each step with the outcome and the normalised scores of this step and those after it.

    With R_i the compared reward of solution i, s_ij the score of its step j on the scale [-1, 1], S_i the number of its steps
    with a score, and lambda_i by its outcome:

        A_it = R_i + lambda_i / S_i * sum of s_ij over the steps j that end at or after t

    Scores are put on that scale from the provider's: 2 (s - low) / (high - low) - 1. A step without a score (a comment line)
    has no reward; a solution without any has its outcome advantage.

    Source: process-guided code RL (arXiv 2410.17621), second-hand: dense rewards at the ends of lines, normalised by length,
    with different weights for passing and failing programs. There they are rewards of PPO with a critic, and the scores are a
    reward model's, trained on labels by binary search; here the outcome is compared with the group, without a critic.

    Needs ``StepScores``: ``FeasiblePrefixScores`` gives the source's labels.

    Args:
        weight_correct: lambda of correct solutions; unpublished.
        weight_incorrect: lambda of the others; unpublished.
        ddof: of the group's standard deviation, see ``GroupRelativeCredit``.
        eps: likewise.
        baseline: likewise.

    Raises:
        ConfigError: a weight is negative or not finite; as ``GroupRelativeCredit``.
    """

    needs: ClassVar = (StepScores,)

    def __init__(
        self,
        weight_correct: float = 1.0,
        weight_incorrect: float = 1.0,
        ddof: int = 1,
        eps: float = 1e-6,
        baseline: Baseline | None = None,
    ) -> None:
        super().__init__(ddof, eps, baseline)
        for name, weight in (("weight_correct", weight_correct), ("weight_incorrect", weight_incorrect)):
            if not 0 <= weight < math.inf:
                raise ConfigError(f"{name} must be finite and not be negative, got {weight}")
        self.weight_correct, self.weight_incorrect = weight_correct, weight_incorrect

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Credit one solution from its compared reward and its scores."""
        scored = evidence_of(judged, StepScores)
        if scored is None or all(score is None for score in scored.scores):
            return credit_outcome(judged, reward.total, merge_thoughts(judged.verdict))
        check_step_count(judged, len(scored.scores), "scores")
        width = scored.high - scored.low
        scores = [None if s is None else 2 * (s - scored.low) / width - 1 for s in scored.scores]
        weight = self.weight_correct if judged.outcome is Outcome.CORRECT else self.weight_incorrect
        process = torch.tensor(dense_rewards(scores, weight), dtype=torch.float64)
        steps = single_steps(judged.verdict)
        advantages = suffix_sum_advantages(process, reward.total, thought_lengths(steps)).float()
        return CreditedSolution(judged, reward.total, steps, tuple(process.tolist()), advantages)
