"""Sized iterables over what the DataModule makes on the fly. Lightning prefetches from a loader without a length, which
would make rollouts one policy old; from these it takes a batch exactly when it trains on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from lit_tpgrpo.records import StepBatch

T = TypeVar("T")


class Parcel(Generic[T]):
    """A batch on its way from a loader to the DataModule's ``transfer_batch_to_device``, which unpacks it.

    Lightning's precision plugins look into every batch in between: they would round log-probs and advantages to the
    training dtype, and they refuse frozen dataclasses. They leave alone what they do not know.
    """

    __slots__ = ("content",)

    def __init__(self, content: T) -> None:
        self.content = content


class StepLoader:
    """``length`` batches an epoch, each fetched when asked for."""

    def __init__(self, next_batch: Callable[[], StepBatch], length: int) -> None:
        self._next_batch = next_batch
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Parcel[StepBatch]]:
        for _ in range(self._length):
            yield Parcel(self._next_batch())

    def state_dict(self) -> dict[str, int]:
        """Nothing of its own: the DataModule keeps the position. Lightning warns of a loader without this."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """See ``state_dict``."""


class StreamLoader(Generic[T]):
    """A known number of items from a generator that starts anew with each pass; None follows where it ends before."""

    def __init__(self, start: Callable[[], Iterator[T]], length: int) -> None:
        self._start = start
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Parcel[T | None]]:
        filled = itertools.chain(self._start(), itertools.repeat(None))
        return map(Parcel, itertools.islice(filled, self._length))
