"""Mean and deviation of the advantages of all tokens of a round, merged from those of each solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.records import CreditedSolution


@dataclass(frozen=True, slots=True)
class TokenMoments:
    """Number, mean and standard deviation of token advantages; the deviation is exactly 0 if all are equal."""

    count: int
    mean: float
    std: float


def summarise_tokens(solution: CreditedSolution) -> Summary:
    """Return number, mean, sum of squared deviations, least and greatest of a solution's token advantages.

    Tokens that a credit leaves out of the loss (``loss_mask``) are left out.
    """
    advantages = solution.advantages.double()
    if solution.loss_mask is not None:
        advantages = advantages[solution.loss_mask]
    if not len(advantages):
        return (0.0, 0.0, 0.0, math.inf, -math.inf)
    mean = advantages.mean()
    moments = (mean, (advantages - mean).square().sum(), advantages.min(), advantages.max())
    return (float(len(advantages)), *(m.item() for m in moments))


def merge_moments(batch: Sequence[Summary], ddof: int) -> TokenMoments:
    """Merge the summaries of solutions: each token counts once, whatever its solution's length.

    With n_i, m_i and q_i the number, mean and sum of squared deviations of solution i, and n the sum of n_i:

        mean = sum_i n_i m_i / n,   std^2 = (sum_i q_i + sum_i n_i (m_i - mean)^2) / (n - ddof)

    Args:
        batch: of ``summarise_tokens``.
        ddof: 1 divides the variance by n - 1 (sample), 0 by n (population).
    """
    count = sum(n for n, *_ in batch)
    if count <= ddof or min(low for *_, low, _ in batch) == max(high for *_, high in batch):
        return TokenMoments(int(count), math.fsum(n * m for n, m, *_ in batch) / max(count, 1), 0.0)
    mean = math.fsum(n * m for n, m, *_ in batch) / count
    squares = math.fsum(q + n * (m - mean) ** 2 for n, m, q, *_ in batch)
    return TokenMoments(int(count), mean, math.sqrt(squares / (count - ddof)))
