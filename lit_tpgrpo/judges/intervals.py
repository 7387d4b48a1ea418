"""Bootstrap intervals of a judge's scores: percentile intervals over solutions, which are resampled with all their steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_tpgrpo.judges.error_detection import ERROR_FREE, WITH_ERROR, DetectionResult, ErrorScores
from lit_tpgrpo.judges.scoring import LabelCounts
from lit_tpgrpo.records import StepLabel
from lit_tpgrpo.seeds import derived_seed

RESAMPLES = 2000
Interval = tuple[float, float]


def interval(
    counts: Sequence[Sequence[float]], score: Callable[[Tensor], Tensor], level: float = 0.95
) -> Interval | None:
    """Return the percentile bootstrap interval of a score of summed counts; None if no resample has the score.

    The steps of a solution are not independent, so solutions are resampled, not steps: ``RESAMPLES`` resamples with a fixed
    seed, so that equal verdicts have equal intervals. With few solutions, or a score of exactly 0 or 1, it is too narrow.

    Args:
        counts: one row of counts for each solution.
        score: takes sums of rows, (resamples, counts), and returns (resamples,); NaN where it is not defined.
        level: of confidence.
    """
    if not counts:
        return None
    rows = torch.tensor(counts, dtype=torch.float64)
    n = len(rows)
    generator = torch.Generator().manual_seed(derived_seed("bootstrap"))
    sums = torch.stack([rows[torch.randint(n, (n,), generator=generator)].sum(0) for _ in range(RESAMPLES)])
    scores = score(sums)
    scores = scores[~scores.isnan()]
    if not len(scores):
        return None
    low, high = scores.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


def f1_interval(solutions: Sequence[LabelCounts], label: StepLabel) -> Interval | None:
    """Return the interval of a label's F1 = 2 hits / (steps that have it + steps that were given it)."""
    rows = [[c.pairs[label, label], c.support(label) + c.predicted(label)] for c in solutions]
    return interval(rows, lambda sums: 2 * sums[:, 0] / sums[:, 1])  # 0 / 0 is NaN


def detection_intervals(solutions: Sequence[ErrorScores]) -> dict[str, Interval | None]:
    """Return the intervals of the first three scores of ``ErrorScores.scores``, by their names there.

    Args:
        solutions: the scores of each solution alone.
    """
    rows = [
        [
            s.results[DetectionResult.FIRST_ERROR],
            sum(s.results[r] for r in WITH_ERROR),
            s.results[DetectionResult.CLEAN],
            sum(s.results[r] for r in ERROR_FREE),
        ]
        for s in solutions
    ]

    def harmonic(sums: Tensor) -> Tensor:
        a, b = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
        return torch.where(a + b == 0, 0.0, 2 * a * b / (a + b))

    return {
        "accuracy, with an error": interval(rows, lambda sums: sums[:, 0] / sums[:, 1]),
        "accuracy, error-free": interval(rows, lambda sums: sums[:, 2] / sums[:, 3]),
        "F1 (harmonic mean)": interval(rows, harmonic),
    }
