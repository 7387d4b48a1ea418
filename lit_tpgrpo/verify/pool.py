"""A pool of worker processes that can be killed at any time, with a future for each request.

A thread cannot be killed, and one blocked thread can block its whole interpreter, so the verifier's comparisons, and a rule
judge's labelling, run in separate processes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from lit_tpgrpo.verify.worker import Reply
from lit_tpgrpo.verify.worker_process import (
    VERIFIER,
    WorkerCrash,
    WorkerKilled,
    WorkerProcess,
    WorkerStalled,
    WorkerTimeout,
)

START_ATTEMPTS = 3
_REPLIES: dict[type[Exception], Reply] = {
    WorkerCrash: Reply.CRASH,
    WorkerStalled: Reply.STALLED,
    WorkerKilled: Reply.KILLED,
}


class PoolClosed(RuntimeError):
    """The pool was closed while requests were running."""


class WorkerPool:
    """Pool of at most ``workers`` worker processes, started on demand and replaced when lost.

    Args:
        workers: maximum number of processes.
        timeout_s: processor seconds per request.
        wall_timeout_s: wall-clock seconds per request.
        memory_mb: limit of each worker's address space in MiB.
        module: what the workers run, see ``WorkerProcess``.
    """

    def __init__(
        self, workers: int, timeout_s: float, wall_timeout_s: float, memory_mb: int, module: str = VERIFIER
    ) -> None:
        self._module, self._limits = module, (timeout_s, wall_timeout_s, memory_mb)
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[WorkerProcess], Any]] | None] = SimpleQueue()
        # Daemon threads, unlike an executor's: a process that ends with an exception does not first finish the queue.
        self._threads = [threading.Thread(target=self._serve, name="verifier", daemon=True) for _ in range(workers)]
        # Re-entrant: garbage collection may call ``close`` in any thread, even in one that holds the lock.
        self._lock = threading.RLock()
        self._idle: list[WorkerProcess] = []
        self._live: set[WorkerProcess] = set()
        self._closed = False
        self._owner_pid = os.getpid()
        self.lost = 0
        """Number of workers killed or crashed so far; each is replaced when a request needs it."""
        for thread in self._threads:
            thread.start()

    @property
    def usable(self) -> bool:
        """Whether the pool is open and was created in this process: threads do not survive a fork, and pipes are not shared."""
        return not self._closed and self._owner_pid == os.getpid()

    def submit(self, gold: str, answer: str) -> Future[Reply]:
        """Queue a comparison."""
        return self._queue(lambda worker: worker.ask(gold, answer))

    def request(self, message: object) -> Future[Any]:
        """Queue a message; the result is the worker's reply, or the ``Reply`` that says why there is none."""
        return self._queue(lambda worker: worker.request(message))

    def close(self) -> None:
        """End all processes and wait for their end; unfinished futures raise PoolClosed. May be called twice."""
        if self._owner_pid != os.getpid():  # a forked copy: the processes belong to the parent
            return
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            live = tuple(self._live)
        for _ in self._threads:
            self._waiting.put(None)
        for worker in live:
            worker.kill()
        for worker in idle:  # busy workers are disposed of by the thread that waits for their reply
            self._dispose(worker)

    def _queue(self, ask: Callable[[WorkerProcess], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.put((future, ask))
        return future

    def _serve(self) -> None:
        while (item := self._waiting.get()) is not None:
            future, ask = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._reply(ask))
                except BaseException as error:
                    future.set_exception(error)

    def _reply(self, ask: Callable[[WorkerProcess], Any]) -> Any:
        # Retry once on a new worker after a crash, a stall or a kill: the cause (such as the kernel, short of memory) may be
        # unrelated to the request. Two crashes are attributed to the request. A timeout is not retried, because processor time
        # depends on the request only.
        failures: list[Reply] = []
        for _ in range(2):
            worker = self._take()
            try:
                reply = ask(worker)
            except WorkerTimeout:
                self._lose(worker)
                return Reply.TIMEOUT
            except (WorkerCrash, WorkerStalled, WorkerKilled) as error:
                self._lose(worker)
                failures.append(_REPLIES[type(error)])
            except BaseException:
                self._dispose(worker)
                raise
            else:
                self._give_back(worker)
                return reply
        return next((failure for failure in failures if failure is not Reply.CRASH), Reply.CRASH)

    def _take(self) -> WorkerProcess:
        """Return an idle worker, or start a new one."""
        for attempt in range(1, START_ATTEMPTS + 1):
            with self._lock:
                if self._closed:
                    break
                if self._idle:
                    return self._idle.pop()
                worker = WorkerProcess(*self._limits, self._module)
                self._live.add(worker)
            try:
                worker.wait_ready()
            except (WorkerStalled, WorkerCrash, WorkerKilled) as error:
                self._dispose(worker)
                if attempt == START_ATTEMPTS and not self._closed:
                    raise RuntimeError(
                        f"{attempt} workers in a row failed to start ({error}); "
                        f"run `{sys.executable} -m {self._module}` to see why"
                    ) from error
            except BaseException:
                self._dispose(worker)
                raise
            else:
                return worker
        raise PoolClosed("the workers were closed while requests were queued; call again")

    def _give_back(self, worker: WorkerProcess) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(worker)
                return
        self._dispose(worker)

    def _lose(self, worker: WorkerProcess) -> None:
        self._dispose(worker)
        with self._lock:
            if self._closed:
                raise PoolClosed("the workers were closed during a request; call again")
            self.lost += 1

    def _dispose(self, worker: WorkerProcess) -> None:
        worker.dispose()
        with self._lock:
            self._live.discard(worker)
