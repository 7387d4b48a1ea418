"""Which problems of a round this rank samples, and which of them the store has already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L

from lit_tpgrpo.records import Problem
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.token_records import Sampled
from lit_tpgrpo.seeds import derived_seed


@dataclass(frozen=True, slots=True)
class Assignment:
    """A problem that this rank samples: its group's index in the round over all ranks, and its seed."""

    group_index: int
    problem: Problem
    seed: int


def assign_problems(
    trainer: L.Trainer, problems: Sequence[Problem], seed: int, *purpose: object, start: int = 0
) -> list[Assignment]:
    """Return this rank's problems, round-robin.

    A group is sampled on one rank, so its baseline needs no communication. Group indices and seeds do not depend on the
    number of ranks.

    Args:
        trainer: knows rank and world size.
        problems: of all ranks.
        seed: of the run.
        purpose: tells the seeds of rounds and evaluations apart.
        start: group index of the first problem.
    """
    return [
        Assignment(group_index, problem, derived_seed(seed, *purpose, group_index))
        for group_index, problem in enumerate(problems, start)
        if group_index % trainer.world_size == trainer.global_rank
    ]


def stored_groups(
    file: RoundFile, assignments: Sequence[Assignment], group_size: int, policy_version: int
) -> dict[int, Sampled]:
    """Return the stored groups of the assignments by group index: complete, of the same problems and policy version.

    Missing ones have to be sampled (again).
    """
    problems = {a.group_index: a.problem for a in assignments}
    stored = file.solutions(group_size, problems.keys())
    return {
        group_index: (problem, solutions)
        for group_index, (problem, solutions) in stored.items()
        if problem == problems[group_index] and {s.policy_version for s in solutions} == {policy_version}
    }
