"""The group-filter interface: judged groups in, the solutions of each that are credited out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.records import JudgedGroup


@runtime_checkable
class GroupFilter(Protocol):
    """Interface of a filter: which solutions of a group are credited, by the group and by statistics of the whole round.

    It comes before the group's mean and deviation, which the removed solutions are no part of. A keep rule comes after them.
    ``capability`` of a group, which scales r_c of its survivors, is that of all its solutions: acc_G is what the policy can do,
    which the filter does not change. An instance has settings and no state; what it draws at random depends on problem and
    solutions alone. ``summarise`` is called with each group of this rank; the summaries of all ranks are gathered, in the
    order of the groups' indices.
    """

    def summarise(self, group: JudgedGroup) -> Summary:
        """Return the numbers of one group that the statistics of the round are computed from; () for none."""
        ...

    def survivors(self, groups: Sequence[JudgedGroup], batch: Sequence[Summary]) -> Sequence[Sequence[int]]:
        """Return the positions, ascending, of the solutions that each of this rank's groups keeps.

        Args:
            groups: of this rank, possibly none.
            batch: the summaries of all groups of all ranks.
        """
        ...


@runtime_checkable
class ChecksGroupSize(Protocol):
    """A filter whose settings fit some group sizes only."""

    def check_group_size(self, group_size: int) -> None:
        """Check the settings against the run's group size, before anything is sampled.

        Raises:
            ConfigError: too few solutions would be left.
        """
        ...
