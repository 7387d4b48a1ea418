"""Evaluation sets, and which of their problems a rank samples with which seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L

from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.records import Problem
from lit_tpgrpo.seeds import derived_seed


@dataclass(frozen=True, slots=True)
class SetSampling:
    """How an evaluation set is sampled: solutions of each problem, and their parameters."""

    samples: int
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class HeldoutSet:
    """An evaluation set; ``name`` is "" for the only set of a split whose sets have no names."""

    name: str
    problems: Sequence[Problem]
    sampling: SetSampling


@dataclass(frozen=True, slots=True)
class HeldoutTask:
    """A problem that this rank samples: its set, its index in the set, and the seed of its solutions."""

    set: HeldoutSet
    index: int
    problem: Problem
    seed: int


def assign_tasks(
    trainer: L.Trainer, sets: Sequence[HeldoutSet], seed: int, split: str, limit: int | float | None = None
) -> list[HeldoutTask]:
    """Return this rank's problems of all sets, assigned round-robin.

    A problem's seed depends on the run's seed, the split, its set's name and its index in the set: neither on the number of
    ranks nor on the other sets. So ``val`` and ``test`` sample the same problems independently of each other.

    Args:
        trainer: knows rank and world size.
        sets: with the problems of all ranks.
        seed: of the run.
        split: of the sets.
        limit: the first so many problems *of each set* on this rank, or their share of each set (at least one); None for all.
    """
    tasks = [
        HeldoutTask(set_, index, problem, derived_seed(seed, "evaluate", split, *filter(None, [set_.name]), index))
        for set_ in sets
        for index, problem in enumerate(set_.problems)
    ]
    local = tasks[trainer.global_rank :: trainer.world_size]
    if limit is None:
        return local
    taken: Counter[str] = Counter()
    limited = []
    for task in local:
        taken[task.set.name] += 1
        if taken[task.set.name] <= set_limit(limit, len(task.set.problems), trainer.world_size):
            limited.append(task)
    return limited


def set_limit(limit: int | float, problems: int, ranks: int) -> int:
    """Return how many of a set's problems each rank evaluates at most: a number, or a share of them (at least one)."""
    return limit if isinstance(limit, int) else max(1, int(limit * -(-problems // ranks)))
