"""Division by the greatest magnitude of a round: the "batch_norm" of PRIME's recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.credit.batch.token_moments import summarise_tokens
from lit_tpgrpo.records import CreditedSolution


@dataclass(frozen=True)
class MaxScaling:
    """A_t <- A_t / max |A|, the maximum over all tokens of all solutions of the round, so that all lie in [-1, 1].

    PRIME's recipe (verl-recipe@48ea0a79, ``batch_norm``) divides token rewards by the largest magnitude of their suffix sums
    in the batch. An advantage here is such a suffix sum already, so that dividing it is the same. All zero: nothing changes.
    """

    def summarise(self, solution: CreditedSolution) -> Summary:
        return summarise_tokens(solution)

    def rescale(self, solutions: Sequence[CreditedSolution], batch: Sequence[Summary]) -> Sequence[Tensor]:
        largest = max((max(-low, high) for *_, low, high in batch), default=0.0)
        if largest <= 0.0:
            return [s.advantages for s in solutions]
        return [(s.advantages.double() / largest).float() for s in solutions]
