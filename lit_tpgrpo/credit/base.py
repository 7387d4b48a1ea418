"""The credit interface: a judged group in, per-token advantages out. One assignment a file."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lit_tpgrpo.records import CreditedSolution, JudgedGroup


@runtime_checkable
class CreditAssignment(Protocol):
    """Turns the labelled solutions of one problem into token advantages, in the group's order.

    An instance holds its settings (alpha, ddof, ...) and no state.
    """

    def __call__(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]: ...
