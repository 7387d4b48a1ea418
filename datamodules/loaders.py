"""Loaders of batches that are computed on demand.

They have a length: Lightning prefetches from a loader without one, which would make rollouts one policy version old.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.records import TrainBatch

T = TypeVar("T")


class OpaqueBatch(Generic[T]):
    """Hide a batch from Lightning between a loader and ``transfer_batch_to_device``, which unpacks it.

    Lightning's precision plugins convert every batch in between: they would round log-probs and advantages to the
    training dtype, and they refuse frozen dataclasses. Types that they do not know are passed through.
    """

    __slots__ = ("content",)

    def __init__(self, content: T) -> None:
        self.content = content


class TrainBatchLoader:
    """Yield ``length`` batches an epoch, each computed on demand; None ends the epoch early."""

    def __init__(self, next_batch: Callable[[], TrainBatch | None], length: int) -> None:
        self._next_batch = next_batch
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[OpaqueBatch[TrainBatch]]:
        for _ in range(self._length):
            batch = self._next_batch()
            if batch is None:
                return
            yield OpaqueBatch(batch)

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the DataModule keeps the position. Lightning warns of a loader without this method."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Do nothing, see ``state_dict``."""


class StreamLoader(Generic[T]):
    """Yield a fixed number of items from a new generator in each pass, padded with None if it ends early.

    The generator is closed before the last item is yielded: Lightning takes only the items it wants, and resources that the
    generator holds (an awake engine, gathered weights) would otherwise be held during training.

    Args:
        start: returns the generator of one pass.
        length: items of a whole pass.
        limit: returns how many of them Lightning will take in the pass that begins; None for all.
        what: name of the work, for messages. An error on one rank is raised on all, at their last item at the latest.
    """

    def __init__(
        self, start: Callable[[], Iterator[T]], length: int, limit: Callable[[], int | None], what: str
    ) -> None:
        self._start = start
        self._length = length
        self._limit = limit
        self._what = what

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[OpaqueBatch[T | None]]:
        limit = self._limit()
        length = self._length if limit is None else min(limit, self._length)
        items = self._start()
        for number in range(length):
            if number < length - 1:
                try:
                    item = next(items, None)
                except BaseException:
                    with raise_on_all_ranks(self._what):
                        raise
            else:
                with raise_on_all_ranks(self._what):
                    item = next(items, None)
                    _close(items)
            yield OpaqueBatch(item)


def _close(items: Iterator[object]) -> None:
    if isinstance(items, Generator):
        items.close()
