"""The stage of a round that verifies its solutions, with what the store holds of their verdicts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_tpgrpo.credit.merging import check_verdict
from lit_tpgrpo.judges.base import Tally
from lit_tpgrpo.records import JudgedSolution, Outcome, Problem, Solution, Verdict
from lit_tpgrpo.rewards.base import VerifiedSolution
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.sampling import divide_solution, verify_solutions
from lit_tpgrpo.rollout.token_records import Sampled
from lit_tpgrpo.text.formats.base import Division, SolutionFormat
from lit_tpgrpo.text.steps import segment_steps
from lit_tpgrpo.verify.base import Verifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifiedGroups:
    """Verified solutions of some of a round's groups, before they are judged.

    Attributes:
        groups: the solutions by group index, in the order of their samples.
        verdicts: what the store holds of their verdicts, by (group index, sample).
        new_tokens: tokens that were sampled for them, not read from the store.
        sampling_seconds: time of sampling.
        verifying_seconds: time of verifying.
        checked: counters of the verifier, where they were read already: it may have been used for something else since.
        judged: counters of the judge, likewise; None where they are still to be read.
    """

    groups: dict[int, tuple[VerifiedSolution, ...]]
    verdicts: dict[tuple[int, int], Verdict]
    new_tokens: int
    sampling_seconds: float
    verifying_seconds: float
    checked: Tally | None = None
    judged: Tally | None = None

    def __add__(self, other: VerifiedGroups) -> VerifiedGroups:
        return VerifiedGroups(
            self.groups | other.groups,
            self.verdicts | other.verdicts,
            self.new_tokens + other.new_tokens,
            self.sampling_seconds + other.sampling_seconds,
            self.verifying_seconds + other.verifying_seconds,
        )


Stored = Mapping[tuple[int, int], tuple[Outcome, str | None, Verdict]]
"""Outcome, answer and verdict of solutions by (group index, sample)."""


def stored_verdicts(groups: Mapping[int, Sampled], file: RoundFile) -> Stored:
    """Return what the store holds of these groups' verdicts, those that are valid for their solutions."""
    return {key: row for key, row in file.verdicts(groups).items() if _is_valid(groups, key, row)}


def verify_groups(
    verifier: Verifier,
    format_: SolutionFormat,
    groups: Mapping[int, Sampled],
    stored: Stored,
    stop: Sequence[str] = (),
) -> dict[int, tuple[VerifiedSolution, ...]]:
    """Return the verified solutions by group index; a solution with a stored verdict keeps its outcome.

    ``stop`` has the stop strings that the solutions were sampled with.
    """
    divisions = {
        (g, s.sample): divide_solution(format_, s, stop) for g, (_, solutions) in groups.items() for s in solutions
    }
    todo = [
        (g, problem, solution)
        for g, (problem, solutions) in groups.items()
        for solution in solutions
        if (g, solution.sample) not in stored
    ]
    checked = verify_solutions(verifier, [(p, s) for _, p, s in todo], [divisions[g, s.sample] for g, _, s in todo])
    outcomes = {key: (outcome, answer) for key, (outcome, answer, _) in stored.items()}
    outcomes |= {(g, s.sample): result for (g, _, s), result in zip(todo, checked, strict=True)}
    return {
        g: tuple(_verified(problem, s, *outcomes[g, s.sample], divisions[g, s.sample]) for s in solutions)
        for g, (problem, solutions) in groups.items()
    }


def verdicts_of(stored: Stored) -> dict[tuple[int, int], Verdict]:
    """Return the verdicts alone, by (group index, sample)."""
    return {key: verdict for key, (_, _, verdict) in stored.items()}


def _verified(
    problem: Problem, solution: Solution, outcome: Outcome, answer: str | None, division: Division
) -> VerifiedSolution:
    steps = segment_steps(solution.text, solution.token_starts, len(solution.completion_ids), division)
    return VerifiedSolution(problem, solution, outcome, answer, steps, division)


def _is_valid(groups: Mapping[int, Sampled], key: tuple[int, int], stored: tuple[Outcome, str | None, Verdict]) -> bool:
    """Return whether a stored verdict is valid for its solution; otherwise the solution is judged again."""
    group_index, sample = key
    try:
        check_verdict(JudgedSolution(groups[group_index][1][sample], *stored))
    except ValueError as error:
        log.warning("%s; the solution is judged again", error)
        return False
    return True
