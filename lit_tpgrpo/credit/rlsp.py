"""Credit of RLSP (arXiv 2502.06773): an outcome reward with an exploration reward, by length and by a judge's grade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.baselines import Baseline, StandardisedBaseline
from lit_tpgrpo.credit.evidence_access import evidence_of
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.per_solution import credit_compared
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import SolutionGrade
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome

NO_ANSWER, UNGRADED = -0.5, 0.5
"""The source's reward of a solution without an answer, and its grade where the judge failed."""


def exploration_reward(
    outcome: float, characters: int, grade: float, length_scale: float, grade_weight: float
) -> float:
    """Compute (1 - w) * (o - L / (characters / 4)) + w * g: short reasoning is punished, effort is rewarded.

    Four characters count as a token. Where there are fewer, they count as four: the source would divide by zero; ours.

    Args:
        outcome: o, 1 for a correct answer, 0 for another, -0.5 for none.
        characters: of the text before the answer.
        grade: g in [0, 1].
        length_scale: L; 0 for no term of the length.
        grade_weight: w.

    >>> round(exploration_reward(1.0, 20_000, 0.6, 1000.0, 0.2), 4)
    0.76
    """
    return (1 - grade_weight) * (outcome - length_scale / (max(characters, 4) / 4)) + grade_weight * grade


@checked_arguments()
class RLSPCredit(GroupCredit):
    """Credit every token of a solution by its outcome, its length and a judge's grade, relative to the group.

    With o_i = 1 for a correct solution, 0 for another one and -0.5 for one without an answer, c_i the characters before its
    answer block and g_i its grade, scaled to [0, 1], or 0.5 where it has none:

        R_i = (1 - w) * (o_i - L / (c_i / 4)) + w * g_i

    compared with the group by ``baseline``. Source: code GuanghaoYe/Emergence-of-Thinking@e7feea7d, ``orm_server_efficient.py``
    and ``gpt_reward.py``, which trains PPO with a critic on R: the comparison is ours. Characters are counted to the answer
    block there is (to its end where there is none), not to a box. The source's judge grades effort and creativity;
    ``PrinciplesGrades`` grades by principles of its own.

    Needs ``SolutionGrade`` (``PrinciplesGrades``), unless grade_weight is 0.

    Args:
        length_scale: L; 20 is the default of the source's command line, its scripts have 0 and 1000.
        grade_weight: w, 0.2 in the source; 0 asks no judge.
        baseline: what R is compared with; None standardises within the group (ddof 1).

    Raises:
        ConfigError: length_scale is negative or not finite, or grade_weight is outside [0, 1].
    """

    def __init__(self, length_scale: float = 20.0, grade_weight: float = 0.2, baseline: Baseline | None = None) -> None:
        if not 0 <= length_scale < math.inf:
            raise ConfigError(f"length_scale must be finite and not be negative, got {length_scale}")
        if not 0 <= grade_weight <= 1:
            raise ConfigError(f"grade_weight must be in [0, 1], got {grade_weight}")
        self.length_scale, self.grade_weight = length_scale, grade_weight
        self.baseline: Baseline = StandardisedBaseline() if baseline is None else baseline

    @property
    def needs(self) -> tuple[type, ...]:
        """A grade, if it counts."""
        return (SolutionGrade,) if self.grade_weight > 0 else ()

    @property
    def settings(self) -> dict[str, Any]:
        """What loggers show."""
        own = {"length_scale": self.length_scale, "grade_weight": self.grade_weight}
        return own | {"baseline": settings_of(self.baseline)}

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Credit each solution by its reward relative to the group."""
        warn_of_unused_rewards(self, rewarded, "outcomes, lengths and grades")
        rewards = torch.tensor([self._reward(judged) for judged in rewarded], dtype=torch.float64)
        advantages = self.baseline.advantages(rewards, rewards).tolist()
        return [credit_compared(judged, advantage) for judged, advantage in zip(rewarded, advantages, strict=True)]

    def _reward(self, judged: JudgedSolution) -> float:
        outcome = NO_ANSWER if judged.answer is None else float(judged.outcome is Outcome.CORRECT)
        given = evidence_of(judged, SolutionGrade)
        grade = UNGRADED if given is None else (given.grade - given.low) / (given.high - given.low)
        steps = judged.verdict.steps
        end = steps[-1].start if steps and steps[-1].is_answer else len(judged.solution.text)
        return exploration_reward(outcome, end, grade, self.length_scale, self.grade_weight)
