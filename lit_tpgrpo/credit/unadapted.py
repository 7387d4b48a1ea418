"""The paper's ablation "without adaptation": thoughts are worth the same whatever the policy can do."""

from __future__ import annotations

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit
from lit_tpgrpo.credit.merging import check_scale, merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_thoughts
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class UnadaptedThoughtCredit(GroupRelativeCredit):
    """TP-GRPO with a constant in place of r_c.

    Args:
        magnitude: process reward of a correct solution's thought, 1 in the paper's ablation.
        ddof: of the group's standard deviation; 1 as the usual GRPO trainers, the paper does not say.
        eps: added to the standard deviation.

    Raises:
        ConfigError: magnitude is not positive, ddof not 0 or 1, eps negative.
    """

    def __init__(self, magnitude: float = 1.0, ddof: int = 1, eps: float = 1e-6) -> None:
        check_scale("magnitude", magnitude)
        super().__init__(ddof, eps)
        self.magnitude = magnitude

    def credit(self, group: JudgedGroup, judged: JudgedSolution, outcome: float) -> CreditedSolution:
        """The paper's table over merged thoughts, with the constant."""
        return credit_thoughts(judged, outcome, merge_thoughts(judged.verdict), self.magnitude)
