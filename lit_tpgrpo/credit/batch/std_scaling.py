"""Division by the deviation of all tokens of a round: a token keeps its sign (Q-RM's code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.credit.batch.token_moments import merge_moments, summarise_tokens
from lit_tpgrpo.credit.merging import check_standardisation
from lit_tpgrpo.records import CreditedSolution


@checked_arguments()
@dataclass(frozen=True)
class StdScaling:
    """A_t <- A_t / (std(A) + eps), std over all tokens of all solutions of the round; the mean is not subtracted.

    The default of Q-RM's code (homzer/Q-RM@74fd338b), whose paper subtracts the mean as well: ``Whitening``. If all
    advantages are equal, they stay as they are: there is nothing to divide by.

    Args:
        ddof: ddof of the standard deviation; 0 as in that code.
        eps: added to the standard deviation; ours.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """

    ddof: int = 0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_standardisation(self.ddof, self.eps)

    def summarise(self, solution: CreditedSolution) -> Summary:
        return summarise_tokens(solution)

    def rescale(self, solutions: Sequence[CreditedSolution], batch: Sequence[Summary]) -> Sequence[Tensor]:
        std = merge_moments(batch, self.ddof).std
        if std == 0.0:
            return [s.advantages for s in solutions]
        return [(s.advantages.double() / (std + self.eps)).float() for s in solutions]
