"""Cut the kept solutions of a round, in order, into the optimizer steps that train on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

StepSizes = Literal["even", "full"]


def even_steps(items: Sequence[T], per_step: int) -> list[tuple[T, ...]]:
    """Cut items, in order, into about ``len / per_step`` steps of even size.

    The number of kept solutions is rarely divisible by ``per_step``; a short last step would give each of its tokens a larger
    weight than the tokens of other steps have.
    """
    count = max(1, round(len(items) / per_step)) if items else 0
    bounds = [len(items) * i // count for i in range(count + 1)] if count else [0]
    return [tuple(items[a:b]) for a, b in pairwise(bounds)]


class StepCut(ABC, Generic[T]):
    """Cuts items that arrive in parts, always into the same steps, however they arrive.

    Args:
        per_step: items of a step.

    Attributes:
        steps: those that are known so far.
    """

    def __init__(self, per_step: int) -> None:
        self.steps: list[tuple[T, ...]] = []
        self._per_step, self._items = per_step, list[T]()

    def add(self, items: Iterable[T]) -> None:
        """Take the next items."""
        self._items += items

    @abstractmethod
    def end(self) -> None:
        """Cut what is left: no more items come."""


class EvenSteps(StepCut[T]):
    """``even_steps``: all steps have the same size, give or take one; none is known before the last item."""

    def end(self) -> None:
        self.steps += even_steps(self._items, self._per_step)
        self._items = []


class FullSteps(StepCut[T]):
    """Steps of exactly ``per_step`` items, but the last one of at least half as many and less than one and a half times.

    n items give max(1, floor(n / per_step + 1/2)) steps: a rest of less than half a step belongs to the last one. So a step is
    known as soon as half a step beyond it is there.
    """

    def add(self, items: Iterable[T]) -> None:
        super().add(items)
        size = self._per_step
        while 2 * len(self._items) >= 3 * size:
            self.steps.append(tuple(self._items[:size]))
            self._items = self._items[size:]

    def end(self) -> None:
        if self._items:
            self.steps.append(tuple(self._items))
            self._items = []


CUTS: dict[StepSizes, type[StepCut]] = {"even": EvenSteps, "full": FullSteps}
"""By the values of ``data.step_sizes``."""
