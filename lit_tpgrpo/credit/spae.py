"""Credit of SPAE (arXiv 2601.03823): the outcome, less where the policy knew the answer already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from lit_tpgrpo.credit.baselines import MeanBaseline
from lit_tpgrpo.credit.evidence_access import check_step_count, evidence_of
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage
from lit_tpgrpo.credit.merging import merge_thoughts, single_steps
from lit_tpgrpo.credit.per_solution import credit_outcome, credit_single_thoughts
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import AnswerProbes
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


def potential(accuracy: float, confidence: float) -> float:
    """Compute Phi = 1.5 * accuracy * confidence + 0.5 * accuracy - confidence, in [-1, 1].

    >>> [round(potential(*probe), 4) for probe in [(0.1, 0.4), (0.8, 0.9), (0.98, 0.98)]]
    [-0.29, 0.58, 0.9506]
    """
    return 1.5 * accuracy * confidence + 0.5 * accuracy - confidence


def potentials_of(judged: JudgedSolution) -> list[float | None] | None:
    """Return the potential after each step of the verdict, None for a step that was not probed; None without probes."""
    probes = evidence_of(judged, AnswerProbes)
    if probes is None:
        return None
    check_step_count(judged, len(probes.values), "probes")
    return [None if pair is None else potential(*pair) for pair in probes.values]


def potential_changes(potentials: Sequence[float | None]) -> list[float | None]:
    """Compute Phi_k - Phi_{k-1}, 0 for the first step; from the last known one where the step before was not probed.

    >>> potential_changes([0.25, 1.0, None, 0.5])
    [0.0, 0.75, None, -0.5]
    """
    changes: list[float | None] = []
    before: float | None = None
    for value in potentials:
        changes.append(None if value is None else 0.0 if before is None else value - before)
        before = before if value is None else value
    return changes


def saturations(potentials: Sequence[float | None], alpha: float, epsilon: float) -> list[float]:
    """Compute f_k = 1 - alpha * (1 - exp(-C_k)), where C_k counts the earlier steps with a potential above epsilon.

    >>> [round(f, 4) for f in saturations([-0.29, 0.58, 0.9506, None], 0.5, 0.9)]
    [1.0, 1.0, 1.0, 0.6839]
    """
    factors: list[float] = []
    passed = 0
    for value in potentials:
        factors.append(1 - alpha * (1 - math.exp(-passed)))
        passed += value is not None and value > epsilon
    return factors


class SPAECredit(GroupRelativeCredit):
    """Credit the tokens of each step with the outcome, discounted once the policy knows the answer.

    With R_i the reward of solution i, Phi_ik its potential after step k, and C_ik the number of its steps before k with a
    potential above epsilon:

        A_ik = (R_i - mean(R)) * (1 - alpha * (1 - exp(-C_ik)))

    on every token of step k. Source: SPAE (arXiv 2601.03823), second-hand; it adds the gain of each step, by statistics of the
    batch, and standardises: ``data.batch_stage`` ``PotentialGain``. Steps are those of the verdict; labels are not used. A
    solution without probes has its outcome advantage.

    Needs ``AnswerProbes``: ``GoldAnswerProbes``.

    Args:
        alpha: how much of the outcome the steps after the answer is known lose, at most; 0.5 in the source (second-hand).
        epsilon: potential above which it is known; 0.9 in the source (second-hand; its public probe script has it, too).

    Raises:
        ConfigError: alpha is outside [0, 1], or epsilon outside [-1, 1].
    """

    needs: ClassVar = (AnswerProbes,)

    def __init__(self, alpha: float = 0.5, epsilon: float = 0.9) -> None:
        super().__init__(baseline=MeanBaseline())
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha must be in [0, 1], got {alpha}")
        if not -1 <= epsilon <= 1:
            raise ConfigError(f"epsilon must be in [-1, 1], the range of potentials, got {epsilon}")
        self.alpha, self.epsilon = alpha, epsilon

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Credit one solution from its reward less the group's mean."""
        potentials = potentials_of(judged)
        if potentials is None:
            return credit_outcome(judged, reward.total, merge_thoughts(judged.verdict))
        lost = [reward.total * (f - 1) for f in saturations(potentials, self.alpha, self.epsilon)]
        return credit_single_thoughts(judged, reward.total, single_steps(judged.verdict), lost)
