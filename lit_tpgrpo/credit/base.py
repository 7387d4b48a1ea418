"""The credit interface: from a judged group to per-token advantages. Each file has one credit assignment."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lit_tpgrpo.records import CreditedSolution, JudgedGroup

Summary = tuple[float, ...]
"""What a group filter or batch stage has to know of one group or solution to compute statistics of a round; of its choice."""


@runtime_checkable
class CreditAssignment(Protocol):
    """Interface of a credit assignment: token advantages for the judged solutions of one problem, in the group's order.

    An instance has settings (alpha, ddof, ...) and no state.
    """

    def __call__(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]: ...
