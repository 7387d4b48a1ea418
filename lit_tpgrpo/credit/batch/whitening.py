"""Whitening over all tokens of a round: REINFORCE++ (arXiv 2501.03262), VinePPO and PPO trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.credit.batch.token_moments import merge_moments, summarise_tokens
from lit_tpgrpo.credit.merging import check_standardisation
from lit_tpgrpo.records import CreditedSolution


@checked_arguments()
@dataclass(frozen=True)
class Whitening:
    """A_t <- (A_t - mean(A)) / (std(A) + eps), mean and std over all tokens of all solutions of the round.

    A long solution counts more, by its tokens. If all advantages are equal, they become 0. Trainers add 1e-8 to the variance
    instead (verl's ``masked_whiten``), which is the same but for a deviation near 0.

    Args:
        ddof: ddof of the standard deviation; 1 as in the trainers (unbiased variance).
        eps: added to the standard deviation.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """

    ddof: int = 1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_standardisation(self.ddof, self.eps)

    def summarise(self, solution: CreditedSolution) -> Summary:
        return summarise_tokens(solution)

    def rescale(self, solutions: Sequence[CreditedSolution], batch: Sequence[Summary]) -> Sequence[Tensor]:
        moments = merge_moments(batch, self.ddof)
        if moments.std == 0.0:
            return [torch.zeros_like(s.advantages) for s in solutions]
        return [((s.advantages.double() - moments.mean) / (moments.std + self.eps)).float() for s in solutions]
