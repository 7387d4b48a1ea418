"""Credit of ours: a wrong thought of a correct solution has its solution's reward with the sign turned round."""

from __future__ import annotations

import math

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.baselines import Baseline
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage
from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_outcome, credit_thoughts
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


@checked_arguments()
class MirroredThoughtCredit(GroupRelativeCredit):
    """Outcome advantages, except for incorrect thoughts of correct solutions, which get their negative times kappa.

        correct solution:    r in a correct thought, -kappa * r in an incorrect one
        incorrect solution:  r

    with r the standardised reward; if ``data.rewards`` has other terms too, its outcome part alone is turned round. Not
    published: it differs from TP-GRPO's table (paper, Stage II) in two places.

    - TP-GRPO gives an unmatched thought 0 instead of r < 0. The mean of r over a group is 0, so text whose share in correct
      and incorrect solutions is equal has no expected advantage here, while there it has one of (acc_G) * r > 0 in its
      unmatched part: it pays to write more that the answer does not use.
    - TP-GRPO gives an incorrect thought r - alpha * acc_G. In a hard group, r is large and acc_G small: known errors are
      reinforced almost like correct thoughts. Here the penalty is in proportion to r, so it has the same weight in all groups.

    A group whose rewards are equal teaches nothing.

    Args:
        kappa: 0 takes the reward away from incorrect thoughts, 1 turns its sign round.
        ddof: ddof of the group's standard deviation; 1 as in the usual GRPO trainers.
        eps: added to the standard deviation.
        baseline: in place of standardisation, see ``GroupRelativeCredit``.

    Raises:
        ConfigError: kappa is negative or not finite, ddof is not 0 or 1, eps is negative, or a baseline is given besides them.
    """

    def __init__(self, kappa: float = 1.0, ddof: int = 1, eps: float = 1e-6, baseline: Baseline | None = None) -> None:
        if not 0 <= kappa < math.inf:
            raise ConfigError(
                f"kappa must be finite and not be negative, got {kappa}; -1 would be lit_tpgrpo.credit.outcome.OutcomeCredit"
            )
        super().__init__(ddof, eps, baseline)
        self.kappa = kappa

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Turn the sign of a correct solution's incorrect thoughts; other tokens have the outcome advantage."""
        thoughts = merge_thoughts(judged.verdict)
        if judged.outcome is not Outcome.CORRECT:
            return credit_outcome(judged, reward.total, thoughts)
        # r - m = -kappa * r where the outcome is the only reward
        return credit_thoughts(judged, reward.total, thoughts, m=(1 + self.kappa) * reward.outcome_part)
