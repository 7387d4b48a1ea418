"""The batch stage of PRIME's recipe: implicit rewards divided by the round's largest suffix sum, then whitening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.credit.batch.token_moments import merge_moments, summarise_tokens
from lit_tpgrpo.credit.evidence_access import token_rewards_of
from lit_tpgrpo.credit.merging import check_standardisation
from lit_tpgrpo.evidence import TokenRewards
from lit_tpgrpo.records import CreditedSolution


@checked_arguments()
@dataclass(frozen=True)
class PRIMENorm:
    """A_t <- (P_t / d + O - mean) / (std + eps), with P the process part of ``PRIMECredit``'s advantage and O the outcome's.

    d is the largest magnitude of a suffix sum of the raw token rewards q over all solutions of the round, so that the sums of
    both sources have one scale. Dividing q before the comparison with the group, as the source does (verl-recipe@48ea0a79,
    ``prime_norm: batch_norm``), is the same: what follows is linear. It adds 1e-6 to d. Mean and deviation are over all tokens
    of the round. Without token rewards d is 1. Needs ``TokenRewards``.

    Args:
        ddof: ddof of the standard deviation; 1 as in the source.
        eps: added to it.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """

    ddof: int = 1
    eps: float = 1e-8

    needs: ClassVar = (TokenRewards,)

    def __post_init__(self) -> None:
        check_standardisation(self.ddof, self.eps)

    def summarise(self, solution: CreditedSolution) -> Summary:
        """Return the largest suffix sum of q, O, and ``summarise_tokens`` of P."""
        rewards = token_rewards_of(solution.judged)
        largest = 0.0 if rewards is None else float(rewards.flip(0).cumsum(0).abs().max())
        return (largest, solution.outcome_advantage, *summarise_tokens(_process_part(solution)))

    def rescale(self, solutions: Sequence[CreditedSolution], batch: Sequence[Summary]) -> Sequence[Tensor]:
        divisor = max((largest for largest, *_ in batch), default=0.0) or 1.0
        scaled = [
            (n, mean / divisor + o, squares / divisor**2, low / divisor + o, high / divisor + o)
            for _, o, n, mean, squares, low, high in batch
        ]
        moments = merge_moments(scaled, self.ddof) if scaled else None
        if moments is None or moments.std == 0.0:
            return [torch.zeros_like(s.advantages) for s in solutions]
        totals = [_process_part(s).advantages.double() / divisor + s.outcome_advantage for s in solutions]
        return [((total - moments.mean) / (moments.std + self.eps)).float() for total in totals]


def _process_part(solution: CreditedSolution) -> CreditedSolution:
    """Return the solution with its advantages less the outcome's part, float64."""
    return replace(solution, advantages=solution.advantages.double() - solution.outcome_advantage)
