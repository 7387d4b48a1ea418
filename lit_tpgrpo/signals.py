"""Graceful stop on signals: a scheduler's SIGTERM or ctrl-C ends the run at the next safe point, with a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from lightning.pytorch.utilities.exceptions import SIGTERMException

T = TypeVar("T")
_TERMINATED = 128 + signal.SIGTERM  # a shell's exit code for a process ended by SIGTERM


class OutOfTimeError(Exception):
    """The run's time limit is reached. Not a failure: what was sampled and judged is stored, and training ends normally."""


class StopSignals:
    """Handlers of SIGTERM and SIGINT: the first signal requests a stop at the next safe point, a second one stops at once.

    They are active from ``install`` to ``restore``. The work calls ``check`` where it can safely stop: between sampled
    batches, verdicts and optimizer steps.
    """

    def __init__(self) -> None:
        self.requested: int = 0
        self._before: dict[int, Any] = {}
        self._out_of_time: Callable[[], bool] | None = None

    @contextmanager
    def until(self, out_of_time: Callable[[], bool]) -> Iterator[None]:
        """Within the block, let ``check`` also raise OutOfTimeError once ``out_of_time`` returns True."""
        self._out_of_time = out_of_time
        try:
            yield
        finally:
            self._out_of_time = None

    def install(self) -> None:
        """Install the handlers; does nothing outside of the main thread, where Python allows none."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Restore the handlers that ``install`` replaced."""
        self.requested = 0
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def check(self) -> None:
        """Raise if a stop was requested.

        Raises:
            KeyboardInterrupt: SIGINT was received.
            SIGTERMException: SIGTERM was received.
            OutOfTimeError: within ``until``, the time limit is reached.
        """
        if self.requested:
            raise stop_error(self.requested)
        if self._out_of_time is not None and self._out_of_time():
            raise OutOfTimeError

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:  # the second signal
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            error = stop_error(number)
            error.at_once = True  # pyright: ignore[reportAttributeAccessIssue]  # stop without writing a checkpoint
            raise error
        self.requested = number
        print(
            f"{signal.Signals(number).name}: stopping at the next safe point and saving a checkpoint; repeat to stop "
            "immediately",
            file=sys.stderr,
            flush=True,
        )


def unless_out_of_time(work: Callable[[], T]) -> T | None:
    """Return the result of ``work``; None if ``STOP.check`` raised OutOfTimeError in it."""
    try:
        return work()
    except OutOfTimeError:
        return None


def stop_error(number: int) -> BaseException:
    """Return the exception by which Lightning handles a signal; it calls ``on_exception`` for both kinds."""
    return KeyboardInterrupt() if number == signal.SIGINT else SIGTERMException(_TERMINATED)


STOP = StopSignals()
"""The only instance: signals belong to the process, not to a trainer."""
