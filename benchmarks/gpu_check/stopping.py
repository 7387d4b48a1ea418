"""Ending what runs when the run ends: no part outlives the main process, whether a signal tells it to end or it is killed."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """The main process's signals that end a run: each kills the process groups of all parts.

    A worker thread enters a part with ``killed_by_them``; the handler runs in the main thread and takes no lock.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._leaders: set[int] = set()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle them inside, repeated or not (``timeout`` sends two); one that is ignored (``nohup``) stays so."""
        before = {s: handler for s in SIGNALS if (handler := signal.getsignal(s)) not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self.received = signal.Signals(number)
        for leader in list(self._leaders):
            kill_group(leader)

    @contextmanager
    def killed_by_them(self, process: BaseProcess) -> Iterator[None]:
        """While inside, a signal kills the group that a started process leads; so does one that came before."""
        leader = process.pid
        assert leader is not None
        # First added, then asked: the handler does it the other way round, so that one of both sees the other.
        self._leaders.add(leader)
        try:
            if self.received is not None:
                kill_group(leader)
            yield
        finally:
            self._leaders.discard(leader)


def kill_group(leader: int) -> None:
    """Kill a part's process and its group, which it may not lead yet."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)


def end_with_main_process() -> None:
    """In a part's process, which leads its group: kill the group when the process that started it is gone."""
    main = mp.parent_process()
    if main is None:
        raise RuntimeError("a part runs in a process that multiprocessing started")

    def wait() -> None:
        main.join()  # on a pipe whose other end the main process alone holds
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="end_with_main_process", daemon=True).start()
