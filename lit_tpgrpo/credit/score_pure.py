"""Credit of PURE (arXiv 2504.15275) with step scores from evidence."""

from __future__ import annotations

from typing import ClassVar

from lit_tpgrpo.credit.evidence_access import check_step_count, evidence_of
from lit_tpgrpo.credit.pure import BaselineName, PURECredit
from lit_tpgrpo.evidence import StepScores
from lit_tpgrpo.records import JudgedSolution


class ScorePURECredit(PURECredit):
    """Min-form process rewards and the outcome, with scores in place of labels.

    The formula of ``PURECredit``, whose p_ij is here the score s_ij of the step on the source's scale, P(good) - P(bad):

        p_ij = 2 (s_ij - low) / (high - low) - 1

    with the provider's declared scale. A step without a score is left out, as there; a solution without any score, or alone in
    having one, has the outcome part alone.

    Needs ``StepScores``: ``ContinuationScores``, ``LabelScores``, or a provider of yours that asks a process reward model, as
    the source does.

    Args:
        temperature: T of the softmax.
        baseline: ``step``, the code's default, or ``token``, see ``PURECredit``.
        outcome_weight: of the outcome part; 0 for process rewards alone.

    Raises:
        ConfigError: temperature is not positive, or outcome_weight is negative.
    """

    needs: ClassVar = (StepScores,)

    def __init__(self, temperature: float = 0.1, baseline: BaselineName = "step", outcome_weight: float = 1.0) -> None:
        super().__init__(temperature, baseline, outcome_weight, unmatched=None)

    def _scores(self, judged: JudgedSolution) -> list[float | None] | None:
        scored = evidence_of(judged, StepScores)
        if scored is None or all(score is None for score in scored.scores):
            return None
        check_step_count(judged, len(scored.scores), "scores")
        width = scored.high - scored.low
        return [None if s is None else 2 * (s - scored.low) / width - 1 for s in scored.scores]
