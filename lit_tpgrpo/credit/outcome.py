"""Plain GRPO (DeepSeekMath, arXiv 2402.03300): the outcome alone, on every token."""

from __future__ import annotations

from lit_tpgrpo.credit.assign import credit_outcome
from lit_tpgrpo.credit.standardised import StandardisedCredit
from lit_tpgrpo.credit.thoughts import merge_thoughts
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


class OutcomeCredit(StandardisedCredit):
    """No process reward. Thoughts are kept for show: judges still run, so that runs can be compared.

    Args:
        ddof: of the group's standard deviation; 1 as the usual GRPO trainers, the paper does not say.
        eps: added to the standard deviation.

    Raises:
        ConfigError: ddof is not 0 or 1, eps negative.
    """

    def credit(self, group: JudgedGroup, judged: JudgedSolution, outcome: float) -> CreditedSolution:
        """One advantage for all tokens."""
        return credit_outcome(judged, outcome, merge_thoughts(judged.verdict))
