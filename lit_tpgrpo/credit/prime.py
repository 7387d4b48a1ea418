"""Credit of PRIME (arXiv 2502.01456): implicit token rewards and the outcome, compared with the group and summed up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.evidence_access import token_rewards_of
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import TokenRewards
from lit_tpgrpo.functional.implicit_rewards import leave_one_out_by_means
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


@checked_arguments()
class PRIMECredit(GroupCredit):
    """Credit each token with the rewards from it to the end of the solution, from two sources.

    With q_it the implicit reward of token t of solution i, m_i its mean over the solution's tokens, and o_i = 1 if the solution
    is correct, else 0, n solutions in the group:

        A_it = process_weight * sum of (q_is n / (n - 1) - sum_k m_k / (n - 1)) over s >= t
             + outcome_weight * (o_i - mean of the others' o)

    The source (code PRIME-RL/PRIME@18ad596f) then whitens over all tokens of the batch with unbiased variance:
    ``data.batch_stage`` ``Whitening``, or ``PRIMENorm`` for its recipe's ``batch_norm``. Both weights are 1 in the first code,
    whose ``rm_coef`` changes logs alone; the recipe in verl takes 5 and 5 with rewards beta q (a process weight of 5 beta
    here) and leaves the last token out.

    Solutions without token rewards, or without tokens, are left out of n and m and have the outcome part alone; so has one
    that is alone in having rewards.

    Needs ``TokenRewards``: ``ImplicitRewards``, which trains the model that gives them; ``ChosenTokenLogits`` gives others.

    Args:
        process_weight: of the implicit rewards.
        outcome_weight: of the outcome.

    Raises:
        ConfigError: a weight is negative or not finite, or both are 0.
    """

    needs: ClassVar = (TokenRewards,)

    def __init__(self, process_weight: float = 1.0, outcome_weight: float = 1.0) -> None:
        for name, weight in (("process_weight", process_weight), ("outcome_weight", outcome_weight)):
            if not 0 <= weight < math.inf:
                raise ConfigError(f"{name} must be finite and not be negative, got {weight}")
        if process_weight == outcome_weight == 0:
            raise ConfigError("process_weight and outcome_weight are both 0: no solution would get credit")
        self.process_weight, self.outcome_weight = process_weight, outcome_weight

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Compare both sources, and sum the token rewards to the end."""
        warn_of_unused_rewards(self, rewarded, "outcomes and token rewards")
        solved = [float(judged.outcome is Outcome.CORRECT) for judged in rewarded]
        outcomes = [self.outcome_weight * (o - (sum(solved) - o) / (len(solved) - 1)) for o in solved]
        process = self._process(rewarded)
        return [
            _credited(judged, outcome, own) for judged, outcome, own in zip(rewarded, outcomes, process, strict=True)
        ]

    def _process(self, rewarded: Sequence[JudgedSolution]) -> list[Tensor | None]:
        """Return the suffix sums of each solution's compared rewards, float64; None where there is nothing to compare."""
        given = [token_rewards_of(judged) for judged in rewarded]
        known = [rewards for rewards in given if rewards is not None]
        if len(known) < 2:
            return [None] * len(given)
        compared = iter(leave_one_out_by_means(known))
        suffixes = [None if own is None else next(compared).flip(0).cumsum(0).flip(0) for own in given]
        return [None if own is None else self.process_weight * own for own in suffixes]


def _credited(judged: JudgedSolution, outcome: float, process: Tensor | None) -> CreditedSolution:
    thoughts = merge_thoughts(judged.verdict)
    part = torch.zeros(len(judged.solution.completion_ids), dtype=torch.float64) if process is None else process
    return CreditedSolution(judged, outcome, thoughts, (0.0,) * len(thoughts), (part + outcome).float())
