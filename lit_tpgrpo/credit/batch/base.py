"""The batch-stage interface: advantages of a round in, advantages rescaled by statistics of the whole round out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.records import CreditedSolution


@runtime_checkable
class BatchStage(Protocol):
    """Interface of a batch stage: advantages that depend on all solutions of a round, those of other ranks included.

    An instance has settings and no state. ``summarise`` is called with each solution of this rank; the summaries of all ranks
    are gathered, in the order of the solutions' indices, so that results do not depend on the number of ranks.
    """

    def summarise(self, solution: CreditedSolution) -> Summary:
        """Return the numbers of one solution that the statistics of the round are computed from."""
        ...

    def rescale(self, solutions: Sequence[CreditedSolution], batch: Sequence[Summary]) -> Sequence[Tensor]:
        """Return the new advantages of this rank's solutions, float32, (len(completion_ids),) each.

        Args:
            solutions: of this rank, possibly none.
            batch: the summaries of all solutions of all ranks.
        """
        ...
