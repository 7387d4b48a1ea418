"""What every credit assignment here has in common: the outcome reward, standardised within the group."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.merging import check_standardisation, check_verdict, outcome_advantages
from lit_tpgrpo.credit.per_solution import credit_nothing
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class GroupRelativeCredit(ABC):
    """Standardises the outcome rewards of a group, then credits its solutions one by one.

    UNDECIDED solutions get no credit and do not enter the statistics; nor does any solution of a group in which fewer than
    two are decided get credit.

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
        """Credit for each solution of the group, in its order.

        Raises:
            ConfigError: the group has a single solution.
            ValueError: a verdict contradicts its solution, see ``thoughts.check_verdict`` and, where labels pay,
                ``thoughts.agrees_with_answer``.
        """
        for judged in group.solutions:
            check_verdict(judged)
        outcomes = outcome_advantages(group, self.ddof, self.eps)
        return tuple(
            credit_nothing(judged) if outcome is None else self.credit(group, judged, outcome)
            for judged, outcome in zip(group.solutions, outcomes, strict=True)
        )

    @abstractmethod
    def credit(self, group: JudgedGroup, judged: JudgedSolution, outcome: float) -> CreditedSolution:
        """Credit for one solution, given its standardised outcome reward."""
