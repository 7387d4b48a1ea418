"""Stopping on request: a scheduler's SIGTERM or ctrl-C ends the run where nothing is lost."""

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
_TERMINATED = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended


class OutOfTimeError(Exception):
    """The run's time is up. Not a failure: what was sampled and judged is stored, and training ends as at its last step."""


class StopSignals:
    """Takes SIGTERM and SIGINT from ``install`` to ``restore``: the first is noted, a second one takes effect at once.

    The work looks at ``check`` where it can be left: between sampled batches, verdicts and optimizer steps.
    """

    def __init__(self) -> None:
        self.requested: int = 0
        self._before: dict[int, Any] = {}
        self._out_of_time: Callable[[], bool] | None = None

    @contextmanager
    def until(self, out_of_time: Callable[[], bool]) -> Iterator[None]:
        """Meanwhile ``check`` ends the work, too, as soon as ``out_of_time`` says so."""
        self._out_of_time = out_of_time
        try:
            yield
        finally:
            self._out_of_time = None

    def install(self) -> None:
        """Nothing happens off the main thread, where Python allows no handlers."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """The handlers of before ``install``."""
        self.requested = 0
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def check(self) -> None:
        """Raises:
        KeyboardInterrupt: ctrl-C was pressed.
        SIGTERMException: the process is to end.
        OutOfTimeError: within ``until``, the time is up.
        """
        if self.requested:
            raise stop_error(self.requested)
        if self._out_of_time is not None and self._out_of_time():
            raise OutOfTimeError

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:  # patience is over
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            error = stop_error(number)
            error.at_once = True  # pyright: ignore[reportAttributeAccessIssue]  # no checkpoint is waited for
            raise error
        self.requested = number
        print(
            f"{signal.Signals(number).name}: stopping as soon as nothing is lost by it, with a checkpoint; once more to stop "
            "at once",
            file=sys.stderr,
            flush=True,
        )


def unless_out_of_time(work: Callable[[], T]) -> T | None:
    """The work's result; None where ``STOP.check`` found the time to be up."""
    try:
        return work()
    except OutOfTimeError:
        return None


def stop_error(number: int) -> BaseException:
    """What a signal is to Lightning, which calls ``on_exception`` for both."""
    return KeyboardInterrupt() if number == signal.SIGINT else SIGTERMException(_TERMINATED)


STOP = StopSignals()
"""The process's own; signals are no trainer's."""
