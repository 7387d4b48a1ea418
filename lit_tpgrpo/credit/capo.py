"""Credit of CAPO (arXiv 2508.02298): a penalty on the tokens of wrong steps, with the mean over all tokens as baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.merging import (
    check_standardisation,
    has_usable_labels,
    merge_thoughts,
    single_steps,
    thought_lengths,
)
from lit_tpgrpo.credit.per_solution import credit_outcome, credit_single_thoughts
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import (
    WRONG_LABELS,
    CreditedSolution,
    JudgedGroup,
    JudgedSolution,
    Outcome,
    Thought,
    Verdict,
)


@checked_arguments()
class CAPOCredit(GroupCredit):
    """Outcome reward minus a penalty on the tokens of wrong steps, minus the mean over all tokens of the group.

    With o_i = 1 for a correct solution and 0 for others, and w_it = 1 for the tokens of wrong steps, those labelled INCORRECT
    or MATCHED (the answer block of an incorrect solution among them), and 0 for others:

        R_it = outcome_weight * o_i - process_weight * w_it
        A_it = R_it - mean of R over all tokens of all solutions of the group

    and A_it is divided by (std of R over the same tokens + eps) if ddof is given. A long solution weighs more in the mean. A
    solution without usable labels has no penalty. The paper votes over several critiques of one solution: ``VotingJudge``.
    With its rule ``average`` w_it is the share of critiques that call the token's step wrong: our reading. All formulas are
    second-hand: the authors' repository holds no code.

    Args:
        outcome_weight: W_o, 2 in the paper (second-hand).
        process_weight: W_p, 1 in the paper (second-hand).
        ddof: ddof of the standard deviation over tokens, 0 or 1. None does not divide by it: our reading, for whether the
            paper does is unpublished.
        eps: added to the standard deviation; unpublished.

    Raises:
        ConfigError: a weight is not positive, ddof is not 0, 1 or None, or eps is negative.
    """

    def __init__(
        self, outcome_weight: float = 2.0, process_weight: float = 1.0, ddof: int | None = None, eps: float = 1e-6
    ) -> None:
        if not (0 < outcome_weight < math.inf and 0 < process_weight < math.inf):
            raise ConfigError(
                f"the weights must be positive and finite, got {outcome_weight} (outcome) and {process_weight}"
            )
        check_standardisation(1 if ddof is None else ddof, eps)
        self.outcome_weight = outcome_weight
        self.process_weight = process_weight
        self.ddof = ddof
        self.eps = eps

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Compute token rewards and subtract their mean over the group's tokens."""
        warn_of_unused_rewards(self, rewarded)
        outcomes = [self.outcome_weight * (judged.outcome is Outcome.CORRECT) for judged in rewarded]
        thoughts = [_thoughts(judged.verdict) for judged in rewarded]
        penalties = [
            [-self.process_weight * share for share in _wrong_shares(judged, own)]
            for judged, own in zip(rewarded, thoughts, strict=True)
        ]
        by_thought = [
            outcome + torch.tensor(p, dtype=torch.float64) for outcome, p in zip(outcomes, penalties, strict=True)
        ]
        tokens = torch.cat([r.repeat_interleave(thought_lengths(t)) for r, t in zip(by_thought, thoughts, strict=True)])
        if len(tokens.unique()) < 2:  # none at all, or all alike: the mean of equal floats may be rounded
            return [credit_outcome(judged, 0.0, merge_thoughts(judged.verdict)) for judged in rewarded]
        mean = tokens.mean().item()
        scale = 1.0 if self.ddof is None else tokens.std(correction=self.ddof).item() + self.eps
        return [
            credit_single_thoughts(judged, (outcome - mean) / scale, own, [p / scale for p in penalty])
            for judged, outcome, own, penalty in zip(rewarded, outcomes, thoughts, penalties, strict=True)
        ]


def _thoughts(verdict: Verdict) -> tuple[Thought, ...]:
    """Return the parts of a solution that are penalised alike: single steps if each has a share, merged ones otherwise."""
    return merge_thoughts(verdict) if verdict.wrong_shares is None else single_steps(verdict)


def _wrong_shares(judged: JudgedSolution, thoughts: Sequence[Thought]) -> Sequence[float]:
    """Return the weight of the penalty on each thought: 1 or 0 by its label, or its share of the votes."""
    if not has_usable_labels(judged):
        return [0.0] * len(thoughts)
    return judged.verdict.wrong_shares or [float(thought.label in WRONG_LABELS) for thought in thoughts]
