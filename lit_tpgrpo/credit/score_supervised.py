"""Credit of process-supervised GRPO (arXiv 2402.03300, 4.1.3) with step scores from evidence."""

from __future__ import annotations

from typing import ClassVar

from lit_tpgrpo.credit.evidence_access import check_step_count, evidence_of
from lit_tpgrpo.credit.merging import check_standardisation, merge_thoughts, single_steps
from lit_tpgrpo.credit.process_supervised import ProcessSupervisedCredit
from lit_tpgrpo.evidence import StepScores
from lit_tpgrpo.records import JudgedSolution, Thought


class ScoreSupervisedCredit(ProcessSupervisedCredit):
    """Step scores, standardised over all steps of the group, summed from each token to the end.

    The formula of ``ProcessSupervisedCredit``, with scores in place of labels: with s_ij the score of step j of solution i and
    R all scores of the group:

        r_ij = (s_ij - mean(R)) / (std(R) + eps)
        advantage of token t = sum of r_ij over the steps j that end at or after t

    A step without a score is in no mean, and its own reward is 0. The scale of the scores cancels.

    Needs ``StepScores``. With ``ContinuationScores`` it is Math-Shepherd (soft or hard values) or ER-PRM without their process
    reward models: the sources train one on such values, and Math-Shepherd then takes its scores as rewards of PPO.

    Args:
        ddof: ddof of the standard deviation; unpublished.
        eps: added to the standard deviation; unpublished.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """

    needs: ClassVar = (StepScores,)

    def __init__(self, ddof: int = 1, eps: float = 1e-6) -> None:
        check_standardisation(ddof, eps)
        super().__init__(unmatched=None, outcome_if_unlabelled=False, ddof=ddof, eps=eps)

    def _scored_spans(self, judged: JudgedSolution) -> tuple[tuple[Thought, ...], list[float | None]]:
        """Return the steps of a solution with their scores; thoughts where it has none."""
        scored = evidence_of(judged, StepScores)
        if scored is None:
            thoughts = merge_thoughts(judged.verdict)
            return thoughts, [None] * len(thoughts)
        check_step_count(judged, len(scored.scores), "scores")
        return single_steps(judged.verdict), list(scored.scores)
