"""Credit of TP-GRPO: thought-level process rewards, scaled by the policy's capability (paper, Stage II)."""

from __future__ import annotations

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.baselines import Baseline
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage, process_magnitude
from lit_tpgrpo.credit.merging import ability_reward, check_scale, merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_thoughts
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class ThoughtCredit(GroupRelativeCredit):
    """Thought-level process rewards: r_c = alpha * capability in correct solutions, the outcome reward in incorrect ones.

    An incorrect thought gets a negative advantage only if alpha * acc_G exceeds the outcome advantage.

    Args:
        alpha: scale of the process reward; the paper's value is unpublished.
        ddof: ddof of the group's standard deviation; the paper's is unpublished, 1 is that of the usual GRPO trainers.
        eps: added to the standard deviation; unpublished.
        baseline: in place of standardisation, see ``GroupRelativeCredit``.

    Raises:
        ConfigError: alpha is not positive, ddof is not 0 or 1, eps is negative, or a baseline is given besides them.
    """

    def __init__(self, alpha: float = 1.0, ddof: int = 1, eps: float = 1e-6, baseline: Baseline | None = None) -> None:
        check_scale("alpha", alpha)
        super().__init__(ddof, eps, baseline)
        self.alpha = alpha

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Apply the paper's table to merged thoughts."""
        m = process_magnitude(judged, reward, ability_reward(self.alpha, group))
        return credit_thoughts(judged, reward.total, merge_thoughts(judged.verdict), m)
