"""Credit of plain GRPO (DeepSeekMath, arXiv 2402.03300): the outcome advantage on every token."""

from __future__ import annotations

from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage
from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_outcome
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


class OutcomeCredit(GroupRelativeCredit):
    """Outcome advantages without process rewards.

    Thoughts are still computed, for logs only; judges still run, so that runs can be compared. The arguments are those of
    ``GroupRelativeCredit``.
    """

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Give all tokens the outcome advantage."""
        return credit_outcome(judged, reward.total, merge_thoughts(judged.verdict))
