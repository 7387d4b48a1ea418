"""The batch stage of SPAE (arXiv 2601.03823): add the gain of each step by the potentials of the round, then standardise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.credit.batch.token_moments import merge_moments, summarise_tokens
from lit_tpgrpo.credit.merging import check_standardisation
from lit_tpgrpo.credit.spae import potential_changes, potentials_of
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import AnswerProbes
from lit_tpgrpo.records import CreditedSolution

FIELDS = 6
"""Numbers of a step in a summary: its change of potential (NaN for none), then those of ``summarise_tokens``."""


@checked_arguments()
@dataclass(frozen=True)
class PotentialGain:
    """A_t <- (A_t + xi * g_k - mean) / (std + eps) for the tokens of step k; mean and std over all tokens of the round.

    With d_k the change of a step's potential, and d~_k = (d_k - min d) / (max d - min d) over all steps of the round:

        g_k = exp(d~_k) - mean over all steps of exp(d~)

    A step that was not probed has no gain and is in none of min, max and mean. If all changes are equal, every gain is 0.
    Source: SPAE, second-hand; over what min and max are taken, and whether the last mean and deviation are of tokens or of
    steps, is unknown: the round, and tokens, are our reading. Needs ``AnswerProbes``; goes with ``SPAECredit``.

    Args:
        xi: weight of the gain, 0.5 in the source (second-hand).
        ddof: ddof of the standard deviation; unpublished.
        eps: added to it; unpublished.

    Raises:
        ConfigError: xi is negative or not finite, ddof is not 0 or 1, or eps is negative.
    """

    xi: float = 0.5
    ddof: int = 1
    eps: float = 1e-8

    needs: ClassVar = (AnswerProbes,)

    def __post_init__(self) -> None:
        if not 0 <= self.xi < math.inf:
            raise ConfigError(f"xi must be finite and not be negative, got {self.xi}")
        check_standardisation(self.ddof, self.eps)

    def summarise(self, solution: CreditedSolution) -> Summary:
        """Return ``FIELDS`` numbers for each step of the verdict."""
        changes = _changes(solution)
        return tuple(
            number
            for piece, change in zip(_pieces(solution), changes, strict=True)
            for number in (math.nan if change is None else change, *summarise_tokens(piece))
        )

    def rescale(self, solutions: Sequence[CreditedSolution], batch: Sequence[Summary]) -> Sequence[Tensor]:
        steps = [summary[at : at + FIELDS] for summary in batch for at in range(0, len(summary), FIELDS)]
        gains = StepGains.of([change for change, *_ in steps if not math.isnan(change)])
        shifts = [self.xi * gains(None if math.isnan(change) else change) for change, *_ in steps]
        moved = [
            (n, mean + shift, squares, low + shift, high + shift)
            for shift, (_, n, mean, squares, low, high) in zip(shifts, steps, strict=True)
        ]
        moments = merge_moments(moved, self.ddof) if moved else None
        if moments is None or moments.std == 0.0:
            return [torch.zeros_like(s.advantages) for s in solutions]
        gained = [self.gained(solution, gains) for solution in solutions]
        return [((advantages - moments.mean) / (moments.std + self.eps)).float() for advantages in gained]

    def gained(self, solution: CreditedSolution, gains: StepGains) -> Tensor:
        """Return the advantages of a solution with its gains, float64, before they are standardised."""
        lengths = torch.tensor([s.token_end - s.token_start for s in solution.judged.verdict.steps])
        shifts = torch.tensor([self.xi * gains(change) for change in _changes(solution)], dtype=torch.float64)
        return solution.advantages.double() + shifts.repeat_interleave(lengths)


@dataclass(frozen=True, slots=True)
class StepGains:
    """g of a change of potential, by the least, the greatest and the mean of exp of all changes of a round.

    >>> gains = StepGains.of([0.0, 0.87, 0.3706])
    >>> [round(gains(change), 4) for change in (0.0, 0.87, 0.3706, None)]
    [-0.7498, 0.9685, -0.2187, 0.0]
    """

    low: float
    high: float
    mean: float

    @classmethod
    def of(cls, changes: Sequence[float]) -> StepGains:
        """Compute the statistics of all changes."""
        low, high = min(changes, default=0.0), max(changes, default=0.0)
        scaled = cls(low, high, 0.0)
        return replace(scaled, mean=math.fsum(map(scaled, changes)) / max(len(changes), 1))

    def __call__(self, change: float | None) -> float:
        """Return g; 0 for a step without a change, or if all changes are equal."""
        if change is None or self.low == self.high:
            return 0.0
        return math.exp((change - self.low) / (self.high - self.low)) - self.mean


def _changes(solution: CreditedSolution) -> list[float | None]:
    potentials = potentials_of(solution.judged)
    return [None] * len(solution.judged.verdict.steps) if potentials is None else potential_changes(potentials)


def _pieces(solution: CreditedSolution) -> Iterator[CreditedSolution]:
    """Yield the solution cut down to the tokens of each step."""
    mask = solution.loss_mask
    for step in solution.judged.verdict.steps:
        tokens = slice(step.token_start, step.token_end)
        yield replace(
            solution, advantages=solution.advantages[tokens], loss_mask=None if mask is None else mask[tokens]
        )
