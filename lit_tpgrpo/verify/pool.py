"""A few worker processes that can be killed at any moment, behind ordinary futures.

A thread cannot be stopped and a frozen interpreter stops all of its threads, so each comparison runs in a process of
its own interpreter. They are started with ``subprocess`` and not ``multiprocessing``, whose spawn method would import
the user's main script, and torch with it, into every worker.
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
"""To import sympy (about a second; a cold network disk takes far longer). Never counted against a comparison."""
START_ATTEMPTS = 3
ALARM_SLACK_S = 5.0
"""How much later than the parent's limit a worker ends itself."""


KILLED_BY_OTHERS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP})
"""What the kernel (short of memory), a scheduler or a person ends a worker with; no comparison ends its own with these."""


class WorkerTimeout(Exception):
    """A comparison used up its processor time."""


class WorkerStalled(Exception):
    """There was no reply within the wall-clock limit."""


class WorkerCrash(Exception):
    """A worker died by itself."""


class WorkerKilled(Exception):
    """A worker was killed from outside, or died while it had nothing to do."""


class PoolClosed(RuntimeError):
    """The pool was closed while comparisons were under way."""


class WorkerProcess:
    """One worker: start, ask, kill. Used by one thread at a time; only ``kill`` may come from others."""

    def __init__(self, timeout_s: float, wall_timeout_s: float, memory_mb: int) -> None:
        self._wall_timeout_s = wall_timeout_s
        self._received = b""
        package_root = str(Path(__file__).resolve().parents[2])
        alarms = [f"--cpu-s={timeout_s}", f"--alarm-s={wall_timeout_s + ALARM_SLACK_S}"]
        arguments = [*alarms, f"--memory-mb={memory_mb}"]
        self._process = subprocess.Popen(
            # -P: a file sympy.py in the working directory is not sympy.
            [sys.executable, "-P", "-m", "lit_tpgrpo.verify.worker", *arguments],
            env=environment(package_root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
        )

    def wait_ready(self) -> None:
        """Wait for the imports; RuntimeError where they can never succeed."""
        hello = json.loads(self._read_line(START_LIMIT_S))
        if hello != {"ready": True}:
            raise RuntimeError(
                f"expected a verifier worker to start, it reported {hello}; "
                f"install math-verify[antlr4_13_2]==0.9.0 for {sys.executable}"
            )

    def ask(self, gold: str, answer: str) -> Reply:
        """Compare. After an error the worker is to be disposed of.

        Raises:
            WorkerTimeout: ``timeout_s`` of processor time were not enough.
            WorkerStalled: nothing came within ``wall_timeout_s``.
            WorkerCrash: the comparison ended the process.
            WorkerKilled: somebody else did.
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
        """End the process and wait for its end; a thread that waits for its reply gets WorkerCrash."""
        self._process.kill()
        self._process.wait()

    def dispose(self) -> None:
        """Kill and close the pipes. May be called twice."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read_line(self, limit_s: float) -> bytes:
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        poller = select.poll()  # select.select refuses file numbers over 1023
        poller.register(stdout, select.POLLIN)
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._received:
            # Polled even when late: a reply that came while another thread held the interpreter still counts.
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise WorkerStalled(f"no reply within {limit_s} s")
            chunk = os.read(stdout, 65536)
            if not chunk:
                raise _cause_of_death(self._process.wait())
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        return line


_ENDS: dict[type[Exception], Reply] = {
    WorkerCrash: Reply.CRASH,
    WorkerStalled: Reply.STALLED,
    WorkerKilled: Reply.KILLED,
}


def _cause_of_death(code: int) -> Exception:
    """What the exit code of a worker means that ended during a comparison."""
    if -code in (signal.SIGPROF, signal.SIGXCPU):
        return WorkerTimeout("the comparison used up its processor time")
    if code == -signal.SIGALRM:
        return WorkerStalled("the worker's own alarm ended it")
    if -code in KILLED_BY_OTHERS:
        return WorkerKilled(f"a worker was ended by {signal.Signals(-code).name}")
    return WorkerCrash(f"a worker ended with code {code}")


class WorkerPool:
    """Runs comparisons on at most ``workers`` processes, started when first needed and replaced when lost."""

    def __init__(self, workers: int, timeout_s: float, wall_timeout_s: float, memory_mb: int) -> None:
        self._limits = (timeout_s, wall_timeout_s, memory_mb)
        self._waiting: SimpleQueue[tuple[Future[Reply], str, str] | None] = SimpleQueue()
        # Daemons, unlike an executor's threads: a process that ends with an exception does not first work off the queue.
        self._threads = [threading.Thread(target=self._serve, name="verifier", daemon=True) for _ in range(workers)]
        # Re-entrant: garbage collection may call ``close`` in any thread, also in one that holds the lock.
        self._lock = threading.RLock()
        self._idle: list[WorkerProcess] = []
        self._live: set[WorkerProcess] = set()
        self._closed = False
        self._owner = os.getpid()
        self.lost = 0
        """Workers killed or crashed so far; each is replaced when the next comparison needs it."""
        for thread in self._threads:
            thread.start()

    @property
    def usable(self) -> bool:
        """Whether it is open and belongs to this process: threads do not survive a fork, and pipes are not shared."""
        return not self._closed and self._owner == os.getpid()

    def submit(self, gold: str, answer: str) -> Future[Reply]:
        future: Future[Reply] = Future()
        self._waiting.put((future, gold, answer))
        return future

    def close(self) -> None:
        """End every process and wait for its end; futures not done raise PoolClosed. May be called twice."""
        if self._owner != os.getpid():  # a forked copy: the processes are the parent's
            return
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            live = tuple(self._live)
        for _ in self._threads:
            self._waiting.put(None)
        for worker in live:
            worker.kill()
        for worker in idle:  # those at work are disposed of by the thread that waits for them
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
        # What ends a worker or keeps it waiting is tried once more on a fresh one: whoever killed it (the kernel, short of
        # memory) may have meant somebody else. Two crashes are the pair's own doing. Processor time depends on the pair
        # alone: a second try would only use up as much again.
        ends: list[Reply] = []
        for _ in range(2):
            worker = self._take()
            try:
                reply = worker.ask(gold, answer)
            except WorkerTimeout:
                self._lose(worker)
                return Reply.TIMEOUT
            except (WorkerCrash, WorkerStalled, WorkerKilled) as error:
                self._lose(worker)
                ends.append(_ENDS[type(error)])
            except BaseException:
                self._dispose(worker)
                raise
            else:
                self._give_back(worker)
                return reply
        return next((end for end in ends if end is not Reply.CRASH), Reply.CRASH)

    def _take(self) -> WorkerProcess:
        """An idle worker, or a new one that is ready."""
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
                        f"expected a verifier worker to start, {attempt} in a row did not ({error}); "
                        f"run `{sys.executable} -m lit_tpgrpo.verify.worker` to see why"
                    ) from error
            except BaseException:
                self._dispose(worker)
                raise
            else:
                return worker
        raise PoolClosed("the verifier was closed while answers were waiting; verify them again")

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
