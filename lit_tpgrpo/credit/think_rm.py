"""Credit of Think-RM (arXiv 2505.16265): how much a solution is preferred to the others of its group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.evidence_access import evidence_of
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.per_solution import credit_compared
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Preferences
from lit_tpgrpo.functional.preferences import preference_advantages
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class ThinkRMCredit(GroupCredit):
    """Credit every token of a solution by preferences between pairs; neither outcomes nor labels are used.

    With d_ij > 0 where solution i is preferred to j, over the n solutions of the group that have preferences:

        A_i = (sum_j d_ij / n) / sqrt(sum_ij d_ij^2 / (2 n (n - 1)) + eps)

    With d_ij = r_i - r_j this is GRPO with ddof 1. A solution without preferences, or without a reward, gets no credit and
    counts in no sum; fewer than two others get none either. Needs ``Preferences``: ``PairwisePreferences``. Source: code
    IlgeeHong/Think-RM@2976ace7, without its factor by the length of the judge's text.

    Args:
        eps: added to the variance, 1e-6 in the source.

    Raises:
        ConfigError: eps is negative or not finite.
    """

    needs: ClassVar = (Preferences,)

    def __init__(self, eps: float = 1e-6) -> None:
        if not 0 <= eps < math.inf:
            raise ConfigError(f"eps must be finite and not be negative, got {eps}")
        self.eps = eps

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Credit each solution by its preferences over the other rewarded ones."""
        warn_of_unused_rewards(self, rewarded, "preferences")
        given = {s.solution.sample: p for s in rewarded if (p := evidence_of(s, Preferences)) is not None}
        advantages: dict[int, float] = {}
        if len(given) > 1:
            matrix = torch.tensor([[p.over(sample) for sample in given] for p in given.values()], dtype=torch.float64)
            advantages = dict(zip(given, preference_advantages(matrix, self.eps).tolist(), strict=True))
        return [credit_compared(judged, advantages.get(judged.solution.sample)) for judged in rewarded]
