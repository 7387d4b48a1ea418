"""Sized iterables over what the DataModule makes on the fly. Lightning prefetches from a loader without a length, which
would make rollouts one policy old; from these it takes a batch exactly when it trains on it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.records import TrainBatch

T = TypeVar("T")


class OpaqueBatch(Generic[T]):
    """A batch on its way from a loader to the DataModule's ``transfer_batch_to_device``, which unpacks it.

    Lightning's precision plugins look into every batch in between: they would round log-probs and advantages to the
    training dtype, and they refuse frozen dataclasses. They leave alone what they do not know.
    """

    __slots__ = ("content",)

    def __init__(self, content: T) -> None:
        self.content = content


class TrainBatchLoader:
    """``length`` batches an epoch, each fetched when asked for; the epoch ends early where there is none."""

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
        """Nothing of its own: the DataModule keeps the position. Lightning warns of a loader without this."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """See ``state_dict``."""


class StreamLoader(Generic[T]):
    """A known number of items from a generator that starts anew with each pass; None follows where it ends before.

    The generator is closed before the last item is handed out: Lightning asks for no more than the items it wants, and what the
    generator holds (an awake engine, gathered weights) would stay held while training goes on.

    Args:
        start: makes the generator of one pass.
        length: items of a whole pass.
        limit: how many of them Lightning will take of the pass that begins; None takes all.
        what: the work in words. An error in it on one process ends all, at the last item of those where it went well.
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
