"""The stage of a round that credits its judged groups: filter, credit assignment, batch stage."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from lit_tpgrpo.arguments import shown
from lit_tpgrpo.credit.base import CreditAssignment, Summary
from lit_tpgrpo.credit.batch.base import BatchStage
from lit_tpgrpo.credit.filters.base import GroupFilter
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import CreditedSolution, JudgedGroup

Guard = Callable[[], AbstractContextManager[None]]
T = TypeVar("T")


@dataclass(frozen=True)
class Crediting:
    """Credit the groups of a round: what the filter leaves of them, then the batch stage on all ranks' solutions.

    Args:
        credit: token advantages of one group.
        group_size: solutions of a group, before the filter.
        group_filter: drops solutions before their group's statistics; None drops none.
        batch_stage: rescales the advantages of the whole round; None leaves them.
    """

    credit: CreditAssignment
    group_size: int
    group_filter: GroupFilter | None = None
    batch_stage: BatchStage | None = None

    def __call__(self, groups: Mapping[int, JudgedGroup], guard: Guard = nullcontext) -> dict[int, CreditedSolution]:
        """Return the credited solutions of this rank by solution index (group index x G + sample), ascending.

        A group of which the filter leaves fewer than two solutions is not credited: there is nothing to compare. The batch
        stage covers the solutions with a reward in groups with at least two of them, but those of which the credit knew
        nothing (``is_compared``); the others keep advantage 0.
        Collective if there is a filter or a batch stage.

        Args:
            groups: of this rank, by group index, ascending.
            guard: context of every part that calls code of users and has no collective, such as ``raise_on_all_ranks``.

        Raises:
            ConfigError: the filter, the credit or the stage returned something else than its interface says.
        """
        if self.group_filter is not None:
            groups = self._filtered(self.group_filter, groups, guard)
        credited: dict[int, CreditedSolution] = {}
        compared: list[int] = []
        with guard():
            for g, group in groups.items():
                for judged, solution in zip(group.solutions, self._credited(group), strict=True):
                    index = g * self.group_size + judged.solution.sample
                    credited[index] = solution
                    if solution.is_compared and judged.is_rewarded and len(group.rewarded) > 1:
                        compared.append(index)
        if self.batch_stage is None:
            return credited
        return credited | self._rescaled(self.batch_stage, {i: credited[i] for i in compared}, guard)

    def _credited(self, group: JudgedGroup) -> Sequence[CreditedSolution]:
        solutions = self.credit(group)
        if len(solutions) != len(group.solutions):
            raise ConfigError(
                f"data.credit: {type(self.credit).__name__} must return one CreditedSolution for each of the "
                f"{len(group.solutions)} solutions of problem {group.problem.uid!r}, got {len(solutions)}"
            )
        return solutions

    def _filtered(
        self, group_filter: GroupFilter, groups: Mapping[int, JudgedGroup], guard: Guard
    ) -> dict[int, JudgedGroup]:
        name = f"data.group_filter: {type(group_filter).__name__}"
        with guard():
            summaries = {g: _checked_summary(name, group_filter.summarise(group)) for g, group in groups.items()}
        batch = _of_all_ranks(summaries)
        with guard():
            survivors = _one_each(name, "survivors", group_filter.survivors(list(groups.values()), batch), len(groups))
            filtered = {
                g: replace(
                    group, solutions=tuple(group.solutions[i] for i in _checked_positions(name, group, positions))
                )
                for (g, group), positions in zip(groups.items(), survivors, strict=True)
            }
        return {g: group for g, group in filtered.items() if len(group.solutions) > 1}

    def _rescaled(
        self, stage: BatchStage, credited: Mapping[int, CreditedSolution], guard: Guard
    ) -> dict[int, CreditedSolution]:
        name = f"data.batch_stage: {type(stage).__name__}"
        with guard():
            summaries = {i: _checked_summary(name, stage.summarise(solution)) for i, solution in credited.items()}
        batch = _of_all_ranks(summaries)
        with guard():
            rescaled = _one_each(name, "rescale", stage.rescale(list(credited.values()), batch), len(credited))
            for solution, advantages in zip(credited.values(), rescaled, strict=True):
                _check_advantages(name, solution, advantages)
        return {
            i: replace(solution, advantages=advantages)
            for (i, solution), advantages in zip(credited.items(), rescaled, strict=True)
        }


def _of_all_ranks(summaries: Mapping[int, Summary]) -> list[Summary]:
    """Return the summaries of all ranks in the order of their indices, whatever rank they are from. Collective."""
    rows = [row for rank in gather(list(summaries.items())) for row in rank]
    return [summary for _, summary in sorted(rows, key=operator.itemgetter(0))]


def _checked_summary(name: str, summary: object) -> Summary:
    if not isinstance(summary, tuple) or not all(isinstance(value, int | float) for value in summary):
        raise ConfigError(f"{name}.summarise must return a tuple of numbers, got {shown(summary)}")
    return tuple(float(value) for value in summary)


def _one_each(name: str, method: str, results: Sequence[T], count: int) -> Sequence[T]:
    if not isinstance(results, Sized):
        raise ConfigError(f"{name}.{method} must return a sequence, got {shown(results)}")
    if len(results) != count:
        raise ConfigError(
            f"{name}.{method} must return one entry for each of the {count} it is given, got {len(results)}"
        )
    return results


def _checked_positions(name: str, group: JudgedGroup, positions: Sequence[int]) -> Sequence[int]:
    allowed = range(len(group.solutions))
    if (
        not isinstance(positions, Sized)
        or list(positions) != sorted(set(positions))
        or not all(i in allowed for i in positions)
    ):
        raise ConfigError(
            f"{name}.survivors must return ascending positions from 0 to {len(allowed) - 1} for problem "
            f"{group.problem.uid!r}, got {shown(positions)}"
        )
    return positions


def _check_advantages(name: str, solution: CreditedSolution, advantages: object) -> None:
    expected = solution.advantages.shape
    if not isinstance(advantages, Tensor) or advantages.shape != expected or not advantages.isfinite().all():
        got = f"shape {tuple(advantages.shape)}" if isinstance(advantages, Tensor) else shown(advantages)
        got = "values that are not finite" if isinstance(advantages, Tensor) and advantages.shape == expected else got
        raise ConfigError(f"{name}.rescale must return tensors of finite advantages, here {tuple(expected)}, got {got}")
