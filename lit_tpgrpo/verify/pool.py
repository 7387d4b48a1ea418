"""A pool of worker processes that can be killed at any time, with a future for each comparison.

A thread cannot be killed, and one blocked thread can block its whole interpreter, so comparisons run in separate processes.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future
from queue import SimpleQueue

from lit_tpgrpo.verify.worker import Reply
from lit_tpgrpo.verify.worker_process import WorkerCrash, WorkerKilled, WorkerProcess, WorkerStalled, WorkerTimeout

START_ATTEMPTS = 3
_REPLIES: dict[type[Exception], Reply] = {
    WorkerCrash: Reply.CRASH,
    WorkerStalled: Reply.STALLED,
    WorkerKilled: Reply.KILLED,
}


class PoolClosed(RuntimeError):
    """The pool was closed while comparisons were running."""


class WorkerPool:
    """Pool of at most ``workers`` worker processes, started on demand and replaced when lost.

    Args:
        workers: maximum number of processes.
        timeout_s: processor seconds per comparison.
        wall_timeout_s: wall-clock seconds per comparison.
        memory_mb: limit of each worker's address space in MiB.
    """

    def __init__(self, workers: int, timeout_s: float, wall_timeout_s: float, memory_mb: int) -> None:
        self._limits = (timeout_s, wall_timeout_s, memory_mb)
        self._waiting: SimpleQueue[tuple[Future[Reply], str, str] | None] = SimpleQueue()
        # Daemon threads, unlike an executor's: a process that ends with an exception does not first finish the queue.
        self._threads = [threading.Thread(target=self._serve, name="verifier", daemon=True) for _ in range(workers)]
        # Re-entrant: garbage collection may call ``close`` in any thread, even in one that holds the lock.
        self._lock = threading.RLock()
        self._idle: list[WorkerProcess] = []
        self._live: set[WorkerProcess] = set()
        self._closed = False
        self._owner_pid = os.getpid()
        self.lost = 0
        """Number of workers killed or crashed so far; each is replaced when a comparison needs it."""
        for thread in self._threads:
            thread.start()

    @property
    def usable(self) -> bool:
        """Whether the pool is open and was created in this process: threads do not survive a fork, and pipes are not shared."""
        return not self._closed and self._owner_pid == os.getpid()

    def submit(self, gold: str, answer: str) -> Future[Reply]:
        """Queue a comparison."""
        future: Future[Reply] = Future()
        self._waiting.put((future, gold, answer))
        return future

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

    def _serve(self) -> None:
        while (item := self._waiting.get()) is not None:
            future, gold, answer = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._compare(gold, answer))
                except BaseException as error:
                    future.set_exception(error)

    def _compare(self, gold: str, answer: str) -> Reply:
        # Retry once on a new worker after a crash, a stall or a kill: the cause (such as the kernel, short of memory) may be
        # unrelated to the pair. Two crashes are attributed to the pair. A timeout is not retried, because processor time
        # depends on the pair only.
        failures: list[Reply] = []
        for _ in range(2):
            worker = self._take()
            try:
                reply = worker.ask(gold, answer)
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
                worker = WorkerProcess(*self._limits)
                self._live.add(worker)
            try:
                worker.wait_ready()
            except (WorkerStalled, WorkerCrash, WorkerKilled) as error:
                self._dispose(worker)
                if attempt == START_ATTEMPTS and not self._closed:
                    raise RuntimeError(
                        f"{attempt} verifier workers in a row failed to start ({error}); "
                        f"run `{sys.executable} -m lit_tpgrpo.verify.worker` to see why"
                    ) from error
            except BaseException:
                self._dispose(worker)
                raise
            else:
                return worker
        raise PoolClosed("the verifier was closed while answers were queued; verify them again")

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
                raise PoolClosed("the verifier was closed while it was comparing answers; verify them again")
            self.lost += 1

    def _dispose(self, worker: WorkerProcess) -> None:
        worker.dispose()
        with self._lock:
            self._live.discard(worker)
