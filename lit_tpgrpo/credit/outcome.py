"""Plain GRPO (DeepSeekMath, arXiv 2402.03300): the outcome alone, on every token."""

from __future__ import annotations

from lit_tpgrpo.credit.assign import credit_outcome
from lit_tpgrpo.credit.thoughts import check_standardisation, merge_thoughts, outcome_advantages
from lit_tpgrpo.records import CreditedSolution, JudgedGroup


class OutcomeCredit:
    """No process reward. Thoughts are kept for show: judges still run, so that runs can be compared.

    Args:
        ddof: of the group's standard deviation; 1 as the usual GRPO trainers, the paper does not say.
        eps: added to the standard deviation.

    Raises:
        ConfigError: ddof is not 0 or 1, eps negative.
    """

    def __init__(self, ddof: int = 1, eps: float = 1e-6) -> None:
        check_standardisation(ddof, eps)
        self.ddof = ddof
        self.eps = eps

    def __call__(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]:
        """Credit for each solution of the group, in its order."""
        outcomes = outcome_advantages(group, self.ddof, self.eps)
        return tuple(
            credit_outcome(judged, outcome, merge_thoughts(judged.verdict))
            for judged, outcome in zip(group.solutions, outcomes, strict=True)
        )
