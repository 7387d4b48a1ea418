"""Credit of PURE (arXiv 2504.15275): process rewards whose sum is about the minimum of the step scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.merging import merge_thoughts, single_steps, thought_lengths
from lit_tpgrpo.credit.per_solution import credit_outcome
from lit_tpgrpo.credit.step_scores import check_unmatched, step_scores
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.advantages import suffix_sum_advantages
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome

BaselineName = Literal["step", "token"]


def min_form_rewards(scores: Tensor, temperature: float) -> Tensor:
    """Weight the scores of a solution's steps: r_j = w_j * p_j with w = softmax(-p / temperature).

    The sum of r is about min(p) at a low temperature.

    Args:
        scores: (S,) in [-1, 1]; NaN for a step without a score, whose reward is 0.
        temperature: T > 0.

    >>> min_form_rewards(torch.tensor([0.6, 0.7]), 0.1)
    tensor([0.4386, 0.1883])
    """
    weights = torch.softmax(torch.where(scores.isnan(), -torch.inf, -scores / temperature), dim=0)
    return weights * scores.nan_to_num(0.0)


def step_baseline(others: Sequence[tuple[Tensor, Tensor]], lengths: Tensor) -> Tensor:
    """Subtract from each step the mean over the other solutions of their rewards per scored step, sum(r) / S."""
    mean = torch.stack([r.mean() for r, _ in others]).mean()
    return mean.expand(len(lengths))


def token_baseline(others: Sequence[tuple[Tensor, Tensor]], lengths: Tensor) -> Tensor:
    """Subtract from each step the others' rewards per token of scored steps, sum(r) / sum(L), times the tokens of the step.

    Nothing is subtracted if the others have no tokens: the source divides by zero; ours.
    """
    tokens = torch.cat([n for _, n in others]).sum()
    return lengths * (torch.cat([r for r, _ in others]).sum() / tokens if tokens else 0.0)


BASELINES: dict[BaselineName, Callable[[Sequence[tuple[Tensor, Tensor]], Tensor], Tensor]] = {
    "step": step_baseline,
    "token": token_baseline,
}


@checked_arguments()
class PURECredit(GroupCredit):
    """Min-form process rewards and the outcome, each minus the mean of the other solutions, in suffix sums.

    With p_ij the score of step j of solution i (``step_scores``: +1 or -1 by label), o_i = 1 if it is correct, else 0:

        r_ij = p_ij * softmax_j(-p_i / temperature)
        A_it = sum over the steps j that end at or after t of (r_ij - b_ij)  +  outcome_weight * (o_i - mean of the others' o)

    with b_ij by ``baseline``, over the other solutions that have labels: ``step`` the mean of their sum(r) / S, the same for
    each step; ``token`` their sum of r over their sum of tokens, times the tokens of step j. A step without a score has neither
    r nor b, and its tokens are in no baseline. A solution without usable labels has the outcome part alone; so has one that is
    alone in having them.

    This is the form of the authors' main branch (CJReinforce/PURE@41f9363b), with scores from labels in place of a process
    reward model's P(good) - P(bad). Left out: the mask of separator tokens (a step's tokens include them), the KL penalty in
    the reward (the loss has its own term), and the batch normalisation of advantages.

    Args:
        temperature: T of the softmax.
        baseline: ``step``, the code's default, rewards the number of steps where scores are negative; or ``token``.
        outcome_weight: of the outcome part; 0 for process rewards alone.
        unmatched: score of an UNMATCHED step in [-1, 1]; None leaves it out: it has no process reward and is in no baseline.
            Ours: the source has no such label.

    Raises:
        ConfigError: temperature is not positive, outcome_weight is negative, or unmatched is outside [-1, 1].
    """

    def __init__(
        self,
        temperature: float = 0.1,
        baseline: BaselineName = "step",
        outcome_weight: float = 1.0,
        unmatched: float | None = 0.0,
    ) -> None:
        if not temperature > 0:
            raise ConfigError(f"temperature must be positive, got {temperature}")
        if not 0 <= outcome_weight < math.inf:
            raise ConfigError(f"outcome_weight must be finite and not be negative, got {outcome_weight}")
        check_unmatched(unmatched)
        self.temperature = temperature
        self.baseline: BaselineName = baseline
        self.outcome_weight = outcome_weight
        self.unmatched = unmatched

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Compute both parts of each solution from those of the others."""
        warn_of_unused_rewards(self, rewarded)
        solved = [float(judged.outcome is Outcome.CORRECT) for judged in rewarded]
        # o_i minus the mean of the others'
        outcomes = [self.outcome_weight * (o - (sum(solved) - o) / (len(solved) - 1)) for o in solved]
        process = [self._process(judged) for judged in rewarded]
        credited = []
        for i, (judged, outcome) in enumerate(zip(rewarded, outcomes, strict=True)):
            own = process[i]
            others = [(r[known], n[known]) for r, n, known in (p for k, p in enumerate(process) if k != i and p)]
            if own is None or not others:
                credited.append(credit_outcome(judged, outcome, merge_thoughts(judged.verdict)))
                continue
            rewards, lengths, known = own
            rewards = torch.where(known, rewards - BASELINES[self.baseline](others, lengths), 0.0)
            advantages = suffix_sum_advantages(rewards, outcome, lengths).float()
            steps = single_steps(judged.verdict)
            credited.append(CreditedSolution(judged, outcome, steps, tuple(rewards.tolist()), advantages))
        return credited

    def _scores(self, judged: JudgedSolution) -> list[float | None] | None:
        """Return the score of each step in [-1, 1], None for one without; None without any."""
        return step_scores(judged, self.unmatched)

    def _process(self, judged: JudgedSolution) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return a solution's process rewards, tokens and whether it has a score, by step; None without labels."""
        scores = self._scores(judged)
        if scores is None:
            return None
        given = torch.tensor([torch.nan if s is None else s for s in scores], dtype=torch.float64)
        lengths = thought_lengths(single_steps(judged.verdict))
        return min_form_rewards(given, self.temperature), lengths, ~given.isnan()
