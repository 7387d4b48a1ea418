"""Credit of the paper's ablation "without merging": a reward per step, summed over all following steps."""

from __future__ import annotations

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.baselines import Baseline
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage, process_magnitude
from lit_tpgrpo.credit.merging import ability_reward, check_scale, single_steps
from lit_tpgrpo.credit.per_solution import credit_steps
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class StepCredit(GroupRelativeCredit):
    """Step-level process rewards; advantages grow with the number of following steps, which is why the paper merges steps.

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
        """Compute suffix sums over unmerged steps."""
        m = process_magnitude(judged, reward, ability_reward(self.alpha, group))
        return credit_steps(judged, reward.total, single_steps(judged.verdict), m)
