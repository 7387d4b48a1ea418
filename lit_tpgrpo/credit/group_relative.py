"""Base class of the credit assignments: standardise the rewards within the group."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.merging import check_standardisation, check_verdict, outcome_advantages, outcome_parts
from lit_tpgrpo.credit.per_solution import credit_nothing
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


@checked_arguments()
class GroupRelativeCredit(ABC):
    """Base class that standardises the rewards of a group and then credits each solution.

    A solution without a reward (UNDECIDED, or skipped by all terms of ``data.rewards``) gets no credit and is left out of the
    statistics. If fewer than two solutions of a group are rewarded, none gets credit.

    Args:
        ddof: ddof of the group's standard deviation; 1 as in the usual GRPO trainers, the paper does not say.
        eps: added to the standard deviation.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """

    def __init__(self, ddof: int = 1, eps: float = 1e-6) -> None:
        check_standardisation(ddof, eps)
        self.ddof = ddof
        self.eps = eps

    def __call__(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]:
        """Compute the credit of each solution of the group, in the group's order.

        Raises:
            ConfigError: the group has a single solution.
            ValueError: a verdict contradicts its solution, see ``merging.check_verdict`` and, if labels are rewarded,
                ``merging.agrees_with_answer``.
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
        """Compute the credit of one solution from its standardised reward."""

    def process_magnitude(self, group: JudgedGroup, judged: JudgedSolution, r_c: float) -> float:
        """Return m, the size of a solution's process rewards: r_c if it is correct, else the outcome's part of its advantage.

        The paper (Stage II), which has the outcome reward alone, takes the standardised reward of an incorrect solution: the
        same number. With other terms that would have the wrong sign where an incorrect solution is better than its group by
        those terms, and would take their share off the thoughts that the answer does not adopt.

        Args:
            group: of the solution.
            judged: a solution of the group that gets credit.
            r_c: the size in a correct solution.
        """
        if judged.outcome is Outcome.CORRECT:
            return r_c
        at = next(i for i, solution in enumerate(group.solutions) if solution is judged)
        part = outcome_parts(group, self.ddof, self.eps)[at]
        assert part is not None
        return part
