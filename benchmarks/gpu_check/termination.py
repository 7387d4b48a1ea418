"""End all parts with the main process, whether it receives a signal or is killed."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class KillOnSignal:
    """Handlers of signals that end a run, which kill the process groups of all parts.

    A worker thread registers a part with ``killing``; the handler runs in the main thread and takes no lock.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._leaders: set[int] = set()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals in the block, also repeated ones (``timeout`` sends two); an ignored one (``nohup``) stays so."""
        previous = {s: handler for s in SIGNALS if (handler := signal.getsignal(s)) not in (signal.SIG_IGN, None)}
        for number in previous:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self.received = signal.Signals(number)
        for leader in list(self._leaders):
            kill_group(leader)

    @contextmanager
    def killing(self, process: BaseProcess) -> Iterator[None]:
        """Within the block, let a signal kill the group that a started process leads; an earlier signal counts too."""
        leader = process.pid
        assert leader is not None
        # Add first, then check for a signal: the handler does it in reverse order, so one of the two sees the other.
        self._leaders.add(leader)
        try:
            if self.received is not None:
                kill_group(leader)
            yield
        finally:
            self._leaders.discard(leader)


def kill_group(leader: int) -> None:
    """Kill a part's process and its process group, which may not exist yet."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)


def end_with_main_process() -> None:
    """Kill this part's process group when the main process ends; called in the process that leads the group."""
    main = mp.parent_process()
    if main is None:
        raise RuntimeError("a part must run in a process started by multiprocessing")

    def wait() -> None:
        main.join()  # waits on a pipe whose other end only the main process holds
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="end_with_main_process", daemon=True).start()
