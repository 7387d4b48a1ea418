"""Credit of the paper's ablation "correct solutions only": no process rewards in incorrect solutions."""

from __future__ import annotations

from lit_tpgrpo.credit.group_relative import RewardAdvantage
from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_outcome
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


class CorrectOnlyCredit(ThoughtCredit):
    """Thought-level process rewards in correct solutions; an incorrect one has its outcome advantage on every token.

        correct solution:    r in a correct thought, r - alpha * capability in an incorrect one
        incorrect solution:  r

    with r the standardised reward. The arguments are those of ``ThoughtCredit``.
    """

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Apply the paper's table to a correct solution, give an incorrect one its outcome advantage."""
        if judged.outcome is Outcome.CORRECT:
            return super().credit(group, judged, reward)
        return credit_outcome(judged, reward.total, merge_thoughts(judged.verdict))
