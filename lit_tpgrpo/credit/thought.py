"""TP-GRPO: thought-level process rewards, scaled by what the policy can do (paper, Stage II)."""

from __future__ import annotations

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit
from lit_tpgrpo.credit.merging import ability_reward, check_scale, merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_thoughts
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class ThoughtCredit(GroupRelativeCredit):
    """r_c = alpha * capability for a correct solution's thoughts; the outcome's own size for an incorrect one's.

    An incorrect thought is pushed down (advantage below 0) only where alpha * acc_G exceeds the outcome advantage.

    Args:
        alpha: scale of the process reward; the paper's value is not known.
        ddof: of the group's standard deviation; 1 as the usual GRPO trainers, the paper does not say.
        eps: added to the standard deviation.

    Raises:
        ConfigError: alpha is not positive, ddof not 0 or 1, eps negative.
    """

    def __init__(self, alpha: float = 1.0, ddof: int = 1, eps: float = 1e-6) -> None:
        check_scale("alpha", alpha)
        super().__init__(ddof, eps)
        self.alpha = alpha

    def credit(self, group: JudgedGroup, judged: JudgedSolution, outcome: float) -> CreditedSolution:
        """The paper's table over merged thoughts."""
        return credit_thoughts(judged, outcome, merge_thoughts(judged.verdict), ability_reward(self.alpha, group))
