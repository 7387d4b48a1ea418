"""One worker of the verifier, or of the rule judge, as a process that can be killed at any time.

It is started with ``subprocess`` rather than ``multiprocessing``, whose spawn method would import the user's main script, and
torch with it, into every worker.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lit_tpgrpo.verify.worker import Reply, environment

VERIFIER = "lit_tpgrpo.verify.worker"
START_LIMIT_S = 120.0
"""Time limit for a worker's start, which imports sympy: about a second, far longer from a cold network disk. It does not
count towards the limit of a comparison."""
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


class WorkerProcess:
    """One worker process: start, ask, kill. Used by one thread at a time; only ``kill`` may be called from other threads.

    Args:
        timeout_s: processor seconds per request.
        wall_timeout_s: wall-clock seconds per request.
        memory_mb: limit of the process's address space in MiB.
        module: what it runs; its main program is ``worker.run_worker``.
    """

    def __init__(self, timeout_s: float, wall_timeout_s: float, memory_mb: int, module: str = VERIFIER) -> None:
        self._wall_timeout_s = wall_timeout_s
        self._module = module
        self._received = b""
        package_root = str(Path(__file__).resolve().parents[2])
        alarms = [f"--cpu-s={timeout_s}", f"--alarm-s={wall_timeout_s + ALARM_SLACK_S}"]
        arguments = [*alarms, f"--memory-mb={memory_mb}"]
        self._process = subprocess.Popen(
            # -P: do not import a file such as sympy.py from the working directory.
            [sys.executable, "-P", "-m", module, *arguments],
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
                f"expected a worker to start, got {hello}; install math-verify[antlr4_13_2]==0.9.0 for {sys.executable}, or "
                f"run `{sys.executable} -m {self._module}` to see why"
            )

    def ask(self, gold: str, answer: str) -> Reply:
        """Compare an answer with a gold; errors are those of ``request``."""
        return Reply(self.request([gold, answer]))

    def request(self, message: object) -> Any:
        """Send a message and return the reply, both as JSON values; after an error, dispose of the worker.

        Raises:
            WorkerTimeout: it exceeded ``timeout_s`` of processor time.
            WorkerStalled: there was no reply within ``wall_timeout_s``.
            WorkerCrash: it crashed the process.
            WorkerKilled: the process was killed from outside, or had ended while idle.
        """
        self._write(json.dumps(message).encode() + b"\n")
        return json.loads(self._read_line(self._wall_timeout_s))

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

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        stdin, unsent = self._process.stdin.fileno(), memoryview(line)
        os.set_blocking(stdin, False)  # a worker that is stopped reads nothing, and a long message fills the pipe
        poller = select.poll()
        poller.register(stdin, select.POLLOUT)
        deadline = time.monotonic() + self._wall_timeout_s
        try:
            while unsent:
                if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise WorkerStalled(f"a request was not read within {self._wall_timeout_s} s")
                unsent = unsent[os.write(stdin, unsent) :]
        except BrokenPipeError as error:
            raise WorkerKilled("a worker died while idle") from error

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


def _exit_error(code: int) -> Exception:
    """Return the error for the exit code of a worker that ended during a comparison."""
    if -code in (signal.SIGPROF, signal.SIGXCPU):
        return WorkerTimeout("the comparison exceeded its processor time")
    if code == -signal.SIGALRM:
        return WorkerStalled("the worker was ended by its alarm")
    if -code in EXTERNAL_KILLS:
        return WorkerKilled(f"a worker was killed by {signal.Signals(-code).name}")
    return WorkerCrash(f"a worker ended with exit code {code}")
