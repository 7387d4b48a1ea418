"""Credit of the paper's ablation "incorrect solutions only": no process rewards in correct solutions."""

from __future__ import annotations

from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage
from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_outcome, credit_thoughts
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


class IncorrectOnlyCredit(GroupRelativeCredit):
    """Thought-level process rewards in incorrect solutions; a correct one has its outcome advantage on every token.

        correct solution:    r
        incorrect solution:  r in a matched thought and the answer block, r - m in an unmatched one

    with r the standardised reward and m its outcome part: 0 for an unmatched thought where the outcome is the only reward.
    The arguments are those of ``GroupRelativeCredit``: without r_c there is no alpha.
    """

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Apply the paper's table to an incorrect solution, give a correct one its outcome advantage."""
        thoughts = merge_thoughts(judged.verdict)
        if judged.outcome is Outcome.CORRECT:
            return credit_outcome(judged, reward.total, thoughts)
        return credit_thoughts(judged, reward.total, thoughts, reward.outcome_part)
