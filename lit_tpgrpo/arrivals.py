"""Items that one thread gives and another takes, while more of them are still being made."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class _NoMore:
    """Sentinel after the last item."""


class Arrivals(Iterator[T], Generic[T]):
    """Iterator whose ``next`` waits for an item that another thread puts, and which ends once that one closes it.

    One thread takes; any number may put and close.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[T | _NoMore] = SimpleQueue()

    def put(self, item: T) -> None:
        """Give one item."""
        self._items.put(item)

    def close(self) -> None:
        """End the iteration after the items that were put. May be called twice, and by the thread that takes."""
        self._items.put(_NoMore())

    def __next__(self) -> T:
        item = self._items.get()
        if isinstance(item, _NoMore):
            self._items.put(item)  # for the next call
            raise StopIteration
        return item
