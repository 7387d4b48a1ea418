"""Credit from a judge's grades of whole solutions, relative to the group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.baselines import StandardisedBaseline
from lit_tpgrpo.credit.evidence_access import evidence_of
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.per_solution import credit_compared
from lit_tpgrpo.evidence import SolutionGrade
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class GradeCredit(GroupCredit):
    """Credit every token of a solution by its grade, standardised within the group; neither outcomes nor labels are used.

    With g_i the grades of the group's n solutions that have one:

        A_i = (g_i - mean(g)) / (std(g) + eps)

    This is GRPO (arXiv 2402.03300) with a judge's grade as reward. SPCT (arXiv 2504.02495), whose grader gives the grades,
    trains the judge and not a policy: the credit is ours, unpublished. A solution without a grade, or without a reward, gets no
    credit and counts in no statistics; fewer than two others get none either. Needs ``SolutionGrade``: ``PrinciplesGrades``.

    Args:
        ddof: ddof of the group's standard deviation; 1 as in the usual GRPO trainers.
        eps: added to it.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """

    needs: ClassVar = (SolutionGrade,)

    def __init__(self, ddof: int = 1, eps: float = 1e-6) -> None:
        self._baseline = StandardisedBaseline(ddof, eps)
        self.ddof, self.eps = ddof, eps

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Credit each solution by its grade relative to those of the other rewarded ones."""
        warn_of_unused_rewards(self, rewarded, "grades")
        given = {i: g.grade for i, s in enumerate(rewarded) if (g := evidence_of(s, SolutionGrade)) is not None}
        advantages: dict[int, float] = {}
        if len(given) > 1:
            grades = torch.tensor(list(given.values()), dtype=torch.float64)
            advantages = dict(zip(given, self._baseline.advantages(grades, grades).tolist(), strict=True))
        return [credit_compared(judged, advantages.get(i)) for i, judged in enumerate(rewarded)]
