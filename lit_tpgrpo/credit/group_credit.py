"""Base class of the credit assignments: which solutions of a group get credit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.credit.merging import check_verdict
from lit_tpgrpo.credit.per_solution import credit_nothing
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


class GroupCredit(ABC):
    """Base class that leaves the solutions without a reward out of a group and credits the others together.

    A solution without a reward (UNDECIDED, or skipped by all terms of ``data.rewards``) gets no credit and is left out of the
    statistics. If fewer than two solutions of a group are rewarded, none gets credit: a single one cannot be compared.
    """

    def __call__(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]:
        """Compute the credit of each solution of the group, in the group's order.

        Raises:
            ConfigError: the group has a single solution.
            ValueError: a verdict contradicts its solution, see ``merging.check_verdict`` and, if labels are used,
                ``merging.has_usable_labels``.
        """
        for judged in group.solutions:
            check_verdict(judged)
        if len(group.solutions) < 2:
            raise ConfigError(
                f"problem {group.problem.uid!r} has {len(group.solutions)} solution: an advantage is a reward relative to "
                "the other solutions of the group; sample at least 2 (group_size)"
            )
        if len(group.rewarded) < 2:
            return tuple(map(credit_nothing, group.solutions))
        credited = iter(self.credit_rewarded(group, group.rewarded))
        return tuple(next(credited) if s.is_rewarded else credit_nothing(s) for s in group.solutions)

    @abstractmethod
    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Compute the credit of the rewarded solutions, in their order.

        Args:
            group: of the solutions.
            rewarded: those of its solutions that have a reward, at least two.
        """


def warn_of_unused_rewards(
    credit: GroupCredit, rewarded: Sequence[JudgedSolution], used: str = "outcomes and step labels"
) -> None:
    """Warn that a credit assignment from what is ``used`` alone does not use other terms of ``data.rewards``."""
    if any(judged.reward is not None and judged.reward.total != judged.reward.outcome for judged in rewarded):
        rank_zero_warn(
            f"{type(credit).__name__} uses {used} alone: terms of data.rewards are logged, but give no "
            "credit. GroupRelativeCredit's subclasses, such as ThoughtCredit and OutcomeCredit, use them"
        )
