"""A pool of worker processes that can be killed at any time, with a future for each comparison.

A thread cannot be killed, and one blocked thread can block its whole interpreter, so comparisons run in separate processes.
They are started with ``subprocess`` rather than ``multiprocessing``, whose spawn method would import the user's main script,
and torch with it, into every worker.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue

from lit_tpgrpo.verify.worker import Reply, environment

START_LIMIT_S = 120.0
"""Time limit for a worker's start, which imports sympy: about a second, far longer from a cold network disk. It does not
count towards the limit of a comparison."""
START_ATTEMPTS = 3
ALARM_SLACK_S = 5.0
"""Time after the parent's limit at which a worker ends itself."""
EXTERNAL_KILLS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP})
"""Signals from the kernel (out of memory), a scheduler or a person; a comparison never ends its worker with one of these."""


class WorkerTimeout(Exception):
    """A comparison exceeded its limit of processor time."""


class WorkerStalled(Exception):
    """There was no reply within the wall-clock limit."""


class WorkerCrash(Exception):
    """A comparison crashed its worker."""


class WorkerKilled(Exception):
    """A worker was killed from outside, or ended while idle."""


class PoolClosed(RuntimeError):
    """The pool was closed while comparisons were running."""


class WorkerProcess:
    """One worker process: start, ask, kill. Used by one thread at a time; only ``kill`` may be called from other threads."""

    def __init__(self, timeout_s: float, wall_timeout_s: float, memory_mb: int) -> None:
        self._wall_timeout_s = wall_timeout_s
        self._received = b""
        package_root = str(Path(__file__).resolve().parents[2])
        alarms = [f"--cpu-s={timeout_s}", f"--alarm-s={wall_timeout_s + ALARM_SLACK_S}"]
        arguments = [*alarms, f"--memory-mb={memory_mb}"]
        self._process = subprocess.Popen(
            # -P: do not import a file such as sympy.py from the working directory.
            [sys.executable, "-P", "-m", "lit_tpgrpo.verify.worker", *arguments],
            env=environment(package_root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # the terminal's ctrl-C does not reach it
        )

    def wait_ready(self) -> None:
        """Wait until the worker has imported its libraries.

        Raises:
            RuntimeError: an import failed.
            WorkerStalled, WorkerCrash, WorkerKilled: the worker did not start.
        """
        hello = json.loads(self._read_line(START_LIMIT_S))
        if hello != {"ready": True}:
            raise RuntimeError(
                f"expected a verifier worker to start, got {hello}; "
                f"install math-verify[antlr4_13_2]==0.9.0 for {sys.executable}"
            )

    def ask(self, gold: str, answer: str) -> Reply:
        """Compare an answer with a gold; after an error, dispose of the worker.

        Raises:
            WorkerTimeout: the comparison exceeded ``timeout_s`` of processor time.
            WorkerStalled: there was no reply within ``wall_timeout_s``.
            WorkerCrash: the comparison crashed the process.
            WorkerKilled: the process was killed from outside, or had ended while idle.
        """
        assert self._process.stdin is not None
        unsent = json.dumps([gold, answer]).encode() + b"\n"
        try:
            while unsent:
                unsent = unsent[os.write(self._process.stdin.fileno(), unsent) :]
        except BrokenPipeError as error:
            raise WorkerKilled("a worker died while idle") from error
        return Reply(json.loads(self._read_line(self._wall_timeout_s)))

    def kill(self) -> None:
        """Kill the process and wait for its end; ``ask`` raises WorkerKilled in a thread that waits for a reply."""
        self._process.kill()
        self._process.wait()

    def dispose(self) -> None:
        """Kill the process and close its pipes. May be called twice."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read_line(self, limit_s: float) -> bytes:
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        poller = select.poll()  # select.select refuses file descriptors above 1023
        poller.register(stdout, select.POLLIN)
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._received:
            # Poll even after the deadline: a reply that arrived while another thread held the interpreter still counts.
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise WorkerStalled(f"no reply within {limit_s} s")
            chunk = os.read(stdout, 65536)
            if not chunk:
                raise _exit_error(self._process.wait())
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        return line


_REPLIES: dict[type[Exception], Reply] = {
    WorkerCrash: Reply.CRASH,
    WorkerStalled: Reply.STALLED,
    WorkerKilled: Reply.KILLED,
}


def _exit_error(code: int) -> Exception:
    """Return the error for the exit code of a worker that ended during a comparison."""
    if -code in (signal.SIGPROF, signal.SIGXCPU):
        return WorkerTimeout("the comparison exceeded its processor time")
    if code == -signal.SIGALRM:
        return WorkerStalled("the worker was ended by its alarm")
    if -code in EXTERNAL_KILLS:
        return WorkerKilled(f"a worker was killed by {signal.Signals(-code).name}")
    return WorkerCrash(f"a worker ended with exit code {code}")


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
