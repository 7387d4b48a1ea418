"""Credit of the paper's ablation "without adaptation": process rewards do not depend on the policy's capability."""

from __future__ import annotations

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.baselines import Baseline
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage, process_magnitude
from lit_tpgrpo.credit.merging import check_scale, merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_thoughts
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class UnadaptedThoughtCredit(GroupRelativeCredit):
    """Thought-level process rewards with a constant instead of r_c.

    Args:
        magnitude: process reward of a thought in a correct solution, 1 in the paper's ablation.
        ddof: ddof of the group's standard deviation; the paper's is unpublished, 1 is that of the usual GRPO trainers.
        eps: added to the standard deviation; unpublished.
        baseline: in place of standardisation, see ``GroupRelativeCredit``.

    Raises:
        ConfigError: magnitude is not positive, ddof is not 0 or 1, eps is negative, or a baseline is given besides them.
    """

    def __init__(
        self, magnitude: float = 1.0, ddof: int = 1, eps: float = 1e-6, baseline: Baseline | None = None
    ) -> None:
        check_scale("magnitude", magnitude)
        super().__init__(ddof, eps, baseline)
        self.magnitude = magnitude

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Apply the paper's table with the constant to merged thoughts."""
        m = process_magnitude(judged, reward, self.magnitude)
        return credit_thoughts(judged, reward.total, merge_thoughts(judged.verdict), m)
