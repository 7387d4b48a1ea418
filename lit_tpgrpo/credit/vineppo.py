"""Credit of VinePPO (arXiv 2410.01679): differences of Monte-Carlo values between the steps of a solution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch

from lit_tpgrpo.credit.evidence_access import check_step_count, evidence_of
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.merging import single_steps, thought_lengths
from lit_tpgrpo.credit.per_solution import credit_nothing
from lit_tpgrpo.evidence import Continuations
from lit_tpgrpo.functional.continuation_values import SoftValue
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


def step_advantages(values: Sequence[float | None], outcome: float) -> list[float]:
    """Compute A_k = rho_k + V_{k+1} - V_k, with rho the outcome at the last step and 0 before it, and V = 0 after it.

    Behind the last known value the others are the outcome (the source does so beyond its limit of steps), so that these steps
    have advantage 0, and the step before them has outcome - V. Between two known values the others lie on the line from one to
    the other, so that the steps between share the change; ours, for the source knows all of these.

    Args:
        values: V_k from the start of each step, at least one; the first is known.
        outcome: 1 for a correct solution, else 0.

    >>> [round(a, 4) for a in step_advantages([1 / 3, 2 / 3, 0.0], 0.0)]
    [0.3333, -0.6667, 0.0]
    >>> [round(a, 4) for a in step_advantages([1 / 3, None, None], 1.0)]
    [0.6667, 0.0, 0.0]
    >>> [round(a, 4) for a in step_advantages([0.2, None, 0.8, 0.6], 1.0)]
    [0.3, 0.3, -0.2, 0.4]
    """
    given = {k: v for k, v in enumerate(values) if v is not None}
    advantages = [0.0] * len(values)
    for (k, before), (after_k, after) in itertools.pairwise(given.items()):
        advantages[k:after_k] = [(after - before) / (after_k - k)] * (after_k - k)
    last = max(given)
    advantages[last] = outcome - given[last]
    return advantages


class VinePPOCredit(GroupCredit):
    """Credit the tokens of each step with the change in value that the step brings.

    With V_k the share of correct ones among fresh continuations from the start of step k of S, the bare prompt for k = 1, and
    o = 1 for a correct solution, else 0:

        A_k = V_{k+1} - V_k for k < S,   A_S = o - V_S

    on every token of step k (a token belongs to the step that holds its first character). The advantages of a solution's steps
    add up to o - V_1. There is no baseline beside V, and no standard deviation: the source whitens over the batch
    afterwards, ``data.batch_stage`` ``Whitening``. Steps without continuations: see ``step_advantages``. A solution without
    continuations from its prompt gets no credit.

    Needs ``Continuations``: ``MonteCarloContinuations``, with 9 samples and at most 20 steps in the source's code
    (McGill-NLP/VinePPO@efe72284), for MATH. Steps are those of the verdict, the answer block among them; labels are not used.
    """

    needs: ClassVar = (Continuations,)

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Credit each solution by its values."""
        warn_of_unused_rewards(self, rewarded)
        return [self._credit(judged) for judged in rewarded]

    def _credit(self, judged: JudgedSolution) -> CreditedSolution:
        continued = evidence_of(judged, Continuations)
        if continued is None or not continued.outcomes or not continued.outcomes[0]:
            return credit_nothing(judged)
        check_step_count(judged, len(continued.outcomes), "values")
        estimate = SoftValue()
        values = [estimate(outcomes) if outcomes else None for outcomes in continued.outcomes]
        outcome = float(judged.outcome is Outcome.CORRECT)
        steps = single_steps(judged.verdict)
        table = torch.tensor(step_advantages(values, outcome), dtype=torch.float64)
        advantages = table.repeat_interleave(thought_lengths(steps)).float()
        total = outcome - estimate(continued.outcomes[0])
        return CreditedSolution(judged, total, steps, tuple(table.tolist()), advantages)
