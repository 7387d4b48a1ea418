"""PROF (arXiv 2509.03403): drop the solutions whose step scores contradict their outcome, before the group's statistics."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import ClassVar, Literal

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.base import Summary
from lit_tpgrpo.credit.evidence_access import evidence_of
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import StepScores
from lit_tpgrpo.records import JudgedGroup, JudgedSolution, Outcome
from lit_tpgrpo.seeds import derived_seed

Side = Literal["both", "correct"]


def consistency(scores: Sequence[float], mean: float, correct: bool) -> float:
    """Compute mean_j 2 (s_j - mean) (2 r - 1), with r = 1 for a correct solution, else 0.

    >>> round(consistency([0.9, 0.2], 0.6, True), 4)
    -0.1
    """
    return (1 if correct else -1) * math.fsum(2 * (s - mean) for s in scores) / len(scores)


def correct_removed(n_correct: int, n_wrong: int, removed: int) -> int:
    """Compute how many of m = ``removed`` solutions are correct ones: min(m, round((delta + m) / 2)), at least 0.

    delta is the number of correct ones less that of wrong ones; halves are rounded to even. If a side has too few, fewer are
    removed.
    """
    return max(0, min(removed, round((n_correct - n_wrong + removed) / 2)))


@checked_arguments()
class PROFFilter:
    """Remove the solutions of a group that are least consistent, so that correct and wrong ones come closer in number.

    With s_ij the score of step j of solution i, s the mean of all step scores of the whole round (all ranks), r_i = 1 if it
    is correct, else 0, and S_i its scored steps:

        c_i = mean_j 2 (s_ij - s) (2 r_i - 1)  -  penalty if S_i < min_steps or S_i > max_steps

    Of ``removed`` solutions, ``correct_removed`` are correct ones, the others wrong ones, the lowest c_i of each side first.
    The survivors are credited as usual, by GRPO in the source. A solution without scores counts as one with no step. Undecided
    ones always stay: they are in no statistics.

    Needs ``StepScores`` on the scale [0, 1]. Source: amazon-science/PROF-GRPO@8164ec23, with Qwen2.5-Math-PRM-7B, groups of 8,
    4 removed.

    Args:
        removed: m, solutions that are removed from each group, at most ``group_size`` - 2.
        side: ``both``, or ``correct``: wrong ones are dropped at random (by seeds of problem and policy version), which the
            source advises with a weak process reward model.
        min_steps: fewer scored steps are penalised.
        max_steps: more are, too.
        penalty: subtracted from the consistency.

    Raises:
        ConfigError: ``removed`` is not positive; leaves fewer than two solutions of a group (from ``check_group_size``); or a
            score has another scale (from ``summarise``).
    """

    needs: ClassVar = (StepScores,)

    def __init__(
        self, removed: int = 4, side: Side = "both", min_steps: int = 2, max_steps: int = 30, penalty: float = 10.0
    ) -> None:
        if removed < 1:
            raise ConfigError(f"removed must be at least 1, got {removed}; without a filter, leave it out")
        self.removed = removed
        self.side: Side = side
        self.min_steps, self.max_steps = min_steps, max_steps
        self.penalty = penalty

    def check_group_size(self, group_size: int) -> None:
        """Check that at least two solutions of a group are left, see ``ChecksGroupSize``."""
        if self.removed > group_size - 2:
            raise ConfigError(
                f"data.group_filter: PROFFilter must leave two solutions of a group to compare; removed is {self.removed} of "
                f"data.group_size {group_size}: lower removed to at most {group_size - 2}, or sample larger groups"
                if group_size > 2
                else "data.group_filter: PROFFilter needs data.group_size 3 or more: two solutions must be left to compare"
            )

    def summarise(self, group: JudgedGroup) -> Summary:
        """Return sum and number of the group's step scores."""
        scores = [score for judged in group.decided for score in _scores(judged)]
        return (math.fsum(scores), float(len(scores)))

    def survivors(self, groups: Sequence[JudgedGroup], batch: Sequence[Summary]) -> Sequence[Sequence[int]]:
        """Return the positions of the solutions that stay."""
        count = math.fsum(n for _, n in batch)
        mean = math.fsum(total for total, _ in batch) / count if count else 0.0
        return [self._survivors(group, mean) for group in groups]

    def _survivors(self, group: JudgedGroup, mean: float) -> list[int]:
        sides: dict[bool, list[int]] = {True: [], False: []}
        for i, judged in enumerate(group.solutions):
            if judged.outcome is not Outcome.UNDECIDED:
                sides[judged.outcome is Outcome.CORRECT].append(i)
        value = {i: self._consistency(group.solutions[i], mean) for side in sides.values() for i in side}
        ranked = {side: sorted(positions, key=lambda i: (value[i], i)) for side, positions in sides.items()}
        if self.side == "correct":
            first = group.solutions[0].solution
            random.Random(derived_seed("prof", group.problem.uid, first.policy_version)).shuffle(ranked[False])
        of_correct = correct_removed(len(ranked[True]), len(ranked[False]), self.removed)
        gone = {*ranked[True][:of_correct], *ranked[False][: self.removed - of_correct]}
        return [i for i in range(len(group.solutions)) if i not in gone]

    def _consistency(self, judged: JudgedSolution, mean: float) -> float:
        scores = _scores(judged)
        value = consistency(scores, mean, judged.outcome is Outcome.CORRECT) if scores else 0.0
        return value if self.min_steps <= len(scores) <= self.max_steps else value - self.penalty


def _scores(judged: JudgedSolution) -> list[float]:
    scored = evidence_of(judged, StepScores)
    if scored is None:
        return []
    if (scored.low, scored.high) != (0.0, 1.0):
        raise ConfigError(
            f"PROFFilter needs step scores on the scale [0, 1], and data.evidence gives [{scored.low}, {scored.high}]"
        )
    return [score for score in scored.scores if score is not None]
