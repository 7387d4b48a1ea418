"""One piece of work in a thread of its own, for which another thread waits or which it cancels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

T = TypeVar("T")
_TICK_S = 0.2


class BackgroundWork(Generic[T]):
    """A thread that does some work; it begins at once and does not keep the process from ending.

    Args:
        work: called with ``check``, which it calls where it can be cancelled.
        check: called by that first; its exceptions end the work.
        name: of the thread.
    """

    def __init__(self, work: Callable[[Callable[[], None]], T], check: Callable[[], None], name: str) -> None:
        self._future: Future[T] = Future()
        self._cancelled = False
        self._check = check
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()

    @property
    def error(self) -> BaseException | None:
        """The exception with which it ended."""
        return self._future.exception() if self._future.done() else None

    @property
    def failed(self) -> bool:
        """Whether it ended with an exception."""
        return self.error is not None

    def raise_error(self) -> None:
        """Raise what the work raised, if it has ended so."""
        if self.failed:
            self._future.result()

    def wait(self, check: Callable[[], None]) -> None:
        """Return when the work has ended, in whichever way; ``check`` is called now and then, and its exception raised."""
        while self._thread.is_alive():
            check()
            self._thread.join(_TICK_S)

    def result(self, check: Callable[[], None]) -> T:
        """Wait for the work, and return what it returned or raise what it raised; see ``wait`` for ``check``."""
        self.wait(check)
        return self._future.result()

    def cancel(self, wait: bool = True) -> None:
        """Let the work end with its next check, and wait for that unless told not to."""
        self._cancelled = True
        if wait:
            self._thread.join()

    def _run(self, work: Callable[[Callable[[], None]], T]) -> None:
        try:
            self._future.set_result(work(self._check_cancelled))
        except BaseException as error:  # raised again by ``result``
            self._future.set_exception(error)

    def _check_cancelled(self) -> None:
        self._check()
        if self._cancelled:
            raise CancelledError
