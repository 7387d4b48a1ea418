"""Items that one thread gives and another takes, while more of them are still being made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class End:
    """Mark after the last item, with the error that ended the items, if any."""

    error: BaseException | None = None


class Arrivals(Iterator[T], Generic[T]):
    """Iterator whose ``next`` waits for an item that another thread puts, and which ends once that one closes it.

    One thread takes; any number may put and close.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[T | End] = SimpleQueue()

    def put(self, item: T) -> None:
        """Give one item."""
        self._items.put(item)

    def close(self, error: BaseException | None = None) -> None:
        """End the iteration after the items that were put, by raising the error if there is one.

        May be called again, which has no effect, and by the thread that takes.
        """
        self._items.put(End(error))

    def __next__(self) -> T:
        item = self._items.get()
        if isinstance(item, End):
            self._items.put(End())  # for the next call
            raise StopIteration if item.error is None else item.error
        return item
