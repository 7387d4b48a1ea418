"""Step scores from labels, for the methods whose source scores every step by a process reward model."""

from __future__ import annotations

import math

from lit_tpgrpo.credit.merging import has_usable_labels
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import JudgedSolution, StepLabel


def step_scores(judged: JudgedSolution, unmatched: float | None, wrong: float = -1.0) -> list[float | None] | None:
    """Score each step of a solution by its label, the answer block included: +1 CORRECT, ``wrong`` INCORRECT and MATCHED.

    Args:
        judged: the solution.
        unmatched: score of an UNMATCHED step, of which the judge knows nothing; None leaves it without a score.
        wrong: score of a wrong step, the lowest of the scale.

    Returns:
        One score per step, None for a step without one. None for a solution without usable labels, see
        ``merging.has_usable_labels``.
    """
    if not has_usable_labels(judged):
        return None
    scores = {
        StepLabel.CORRECT: 1.0,
        StepLabel.INCORRECT: wrong,
        StepLabel.MATCHED: wrong,
        StepLabel.UNMATCHED: unmatched,
    }
    return [scores[label] for label in judged.verdict.labels]


def check_unmatched(unmatched: float | None) -> None:
    """Check that the score of UNMATCHED steps lies on the scale of the others.

    Raises:
        ConfigError: it is a number outside [-1, 1].
    """
    if unmatched is not None and not (math.isfinite(unmatched) and -1 <= unmatched <= 1):
        raise ConfigError(f"unmatched must be in [-1, 1], the scale of step scores, or null, got {unmatched}")
