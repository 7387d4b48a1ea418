"""Credit of process-supervised GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1.3), with scores from labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.merging import check_standardisation, merge_thoughts, single_steps, thought_lengths
from lit_tpgrpo.credit.per_solution import credit_nothing
from lit_tpgrpo.credit.step_scores import check_unmatched, step_scores
from lit_tpgrpo.functional.advantages import standardise_group, suffix_sum_advantages
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome, Thought


@checked_arguments()
class ProcessSupervisedCredit(GroupCredit):
    """Step scores, standardised over all steps of the group, summed from each token to the end.

    With s_ij the score of step j of solution i (``step_scores``: +1 or -1 by label) and R all scores of the group:

        r_ij = (s_ij - mean(R)) / (std(R) + eps)
        advantage of token t = sum of r_ij over the steps j that end at or after t

    There is no outcome term: the outcome enters by the labels, that of the answer block among them. The mean is over steps, so
    that long solutions dominate it, and sums grow with the number of steps. All scores equal: every advantage is 0.

    The paper scores steps by a process reward model; scores from labels are this package's reading.

    Args:
        unmatched: score of an UNMATCHED step, of which the judge knows nothing: 0, halfway between wrong and right, or any
            number in [-1, 1]. None leaves it out of mean and standard deviation, and its own reward is 0. Ours: the paper
            has no such label.
        outcome_if_unlabelled: whether a solution without usable labels (abstained, truncated, no answer block) counts as one
            step with the score of its outcome. False leaves it out, with advantage 0: truncation is then not punished.
        ddof: ddof of the standard deviation, unpublished; 1 as in the usual GRPO trainers, 0 in
            adaptive-ml/harmony's implementation of this method.
        eps: added to the standard deviation; unpublished.

    Raises:
        ConfigError: unmatched is outside [-1, 1], ddof is not 0 or 1, or eps is negative.
    """

    def __init__(
        self,
        unmatched: float | None = 0.0,
        outcome_if_unlabelled: bool = False,
        ddof: int = 1,
        eps: float = 1e-6,
    ) -> None:
        check_unmatched(unmatched)
        check_standardisation(ddof, eps)
        self.unmatched = unmatched
        self.outcome_if_unlabelled = outcome_if_unlabelled
        self.ddof = ddof
        self.eps = eps

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Standardise the scores of all steps and sum them up."""
        warn_of_unused_rewards(self, rewarded)
        spans = [self._scored_spans(judged) for judged in rewarded]
        scores = torch.tensor([s for _, own in spans for s in own if s is not None], dtype=torch.float64)
        # A single score has no sample deviation; like equal ones it is no better than its group.
        rewards = iter((standardise_group(scores, self.ddof, self.eps) if len(scores) > 1 else 0 * scores).tolist())
        credited = []
        for judged, (steps, own) in zip(rewarded, spans, strict=True):
            process = torch.tensor([0.0 if s is None else next(rewards) for s in own], dtype=torch.float64)
            if not any(s is not None for s in own):
                credited.append(credit_nothing(judged))
                continue
            advantages = suffix_sum_advantages(process, 0.0, thought_lengths(steps)).float()
            credited.append(CreditedSolution(judged, 0.0, steps, tuple(process.tolist()), advantages))
        return credited

    def _scored_spans(self, judged: JudgedSolution) -> tuple[tuple[Thought, ...], list[float | None]]:
        """Return the steps of a solution, unmerged, with their scores; thoughts where it has no usable labels."""
        scores = step_scores(judged, self.unmatched)
        if scores is not None:
            return single_steps(judged.verdict), scores
        thoughts = merge_thoughts(judged.verdict)
        outcome = 1.0 if judged.outcome is Outcome.CORRECT else -1.0
        return thoughts, [*[None] * (len(thoughts) - 1), outcome if self.outcome_if_unlabelled else None]
