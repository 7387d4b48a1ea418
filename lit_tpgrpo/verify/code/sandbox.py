"""Run programs and tests in sandboxed processes, and say how they ended."""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import os
import secrets
import select
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lit_tpgrpo.verify.code.child import DENIED, ENDED, MEMORY, OUTPUT
from lit_tpgrpo.verify.code.process import Limits, SandboxedProcess
from lit_tpgrpo.verify.code.unit_tests import UnitTests

_SLICE_S = 0.25
_GRACE_S = 5.0
"""Time in which the kernel reports the end of a process whose pipes it has closed."""


class Ending(enum.Enum):
    """How a run ended. All but the last two depend on the program only."""

    PASSED = "passed"
    FAILED = "failed"
    """Another output or value than expected, an exception, or another exit code than 0."""
    TIMEOUT = "timeout"
    """It used up its processor time, or waited for something that does not come."""
    MEMORY = "memory"
    OUTPUT = "output"
    DENIED = "denied"
    """It did something that the sandbox refuses: a process, the network, a file."""
    CRASH = "crash"
    STALLED = "stalled"
    """It did not get to run: waited for a processor, or was stopped from outside."""
    KILLED = "killed"
    """It was killed from outside, with processor time left."""


@functools.cache
def walls() -> dict[str, bool]:
    """Start a process, confine it, and return which walls are up: namespaces, files, system calls."""
    limits = Limits(20, 1024, 10_000, 60.0, 120.0, False)
    with tempfile.TemporaryDirectory() as folder:
        process = SandboxedProcess("probe", limits, folder)
        try:
            _watch([process], limits)
        finally:
            process.close()
    return json.loads(process.output) if process.code == 0 else {}


class Sandbox:
    """Runs programs; all methods are thread-safe.

    Args:
        limits: of one process, for one test.
        prelude: what runs before each program, in its namespace.
    """

    def __init__(self, limits: Limits, prelude: str = "") -> None:
        self._limits = limits
        self._prelude = prelude
        self._lock = threading.Lock()
        self._running: set[SandboxedProcess] = set()
        self._closed = False

    def close(self) -> None:
        """Kill all that runs; what waits for it gets KILLED. A closed sandbox runs nothing any more."""
        with self._lock:
            self._closed = True
            running = tuple(self._running)
        for process in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def run_program(self, code: str, stdin: str) -> tuple[Ending, str]:
        """Run a program; return how it ended (PASSED: with exit code 0) and its standard output."""
        source = json.dumps([self._prelude, code])
        with _folder() as folder, self._process("program", self._limits, folder, source, stdin) as process:
            cause = _watch([process], self._limits)
            ending = cause or _ending(process, self._limits)
        return ending, process.output.decode("utf-8", "replace")

    def run_tests(self, code: str, tests: UnitTests) -> Ending:
        """Run tests in one process that call the functions of a program in another."""
        limits = _for_tests(self._limits, tests.size)
        nonce = secrets.token_hex(16)
        content = json.dumps(
            {
                "cases": tests.calls,
                "function": tests.function,
                "code": tests.code,
                "wrapped": tests.wrapped,
                "nonce": nonce,
            }
        )
        source = json.dumps([self._prelude, code])
        with contextlib.ExitStack() as stack:
            ends_of_pipes = stack.enter_context(_Pipes())
            calls, replies, verdict = (ends_of_pipes.new() for _ in range(3))
            folders = [stack.enter_context(_folder()) for _ in range(2)]
            ends = {"calls": calls[0], "replies": replies[1]}
            program = stack.enter_context(self._process("calls", limits, folders[0], source, ends=ends))
            ends = {"calls": calls[1], "replies": replies[0], "verdict": verdict[1]}
            tester = stack.enter_context(self._process("tests", limits, folders[1], content, ends=ends))
            ends_of_pipes.close(
                calls[0], replies[1], *ends.values()
            )  # a process sees the end of a pipe when the other one ends
            cause = _watch([tester, program], limits)
            if cause is None and tester.code == 0 and os.read(verdict[0], 100) == nonce.encode():
                return Ending.PASSED
            return cause or _cause_of_failure(tester, program, limits)

    @contextlib.contextmanager
    def _process(
        self, role: str, limits: Limits, folder: str, code: str, stdin: str = "", ends: Mapping[str, int] | None = None
    ) -> Iterator[SandboxedProcess]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the verifier was closed while it ran programs; verify them again")
            process = SandboxedProcess(role, limits, folder, code, stdin, ends)
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)
            process.close()


class _Pipes:
    """Pipes of this process, closed at the end of a ``with`` block."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(*self._open)

    def new(self) -> tuple[int, int]:
        """Return the descriptors of a new pipe: to read from, to write to."""
        pipe = os.pipe()
        self._open.update(pipe)
        return pipe

    def close(self, *ends: int) -> None:
        for end in ends:
            self._open.remove(end)
            os.close(end)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lit-tpgrpo-code-")


def _for_tests(limits: Limits, size: int) -> Limits:
    """Return the limits of a process that runs several tests: the time of one for each."""
    return replace(limits, cpu_s=limits.cpu_s * size, wall_s=limits.wall_s * size)


def _watch(processes: Sequence[SandboxedProcess], limits: Limits) -> Ending | None:
    """Wait until the first process has ended; return None then, or why it was not waited for any longer.

    A program that waits by its own will (it sleeps, or reads from nowhere) is told from one that does not get to run: the
    kernel counts how long a thread that could run had to wait for a processor. One that prints now and then while it sleeps
    waits no less: only where its pipe was full may it have waited for this process.
    """
    started = before = time.monotonic()
    worked, idle_s = _worked(processes)[0], 0.0
    while not processes[0].ended():
        was_full = _wait_for_output(processes[0], limits.output_bytes)
        if len(processes[0].output) > limits.output_bytes:
            return Ending.OUTPUT
        now, (work, stopped) = time.monotonic(), _worked(processes)
        if not (was_full or stopped):
            idle_s += max(0.0, now - before - max(0.0, work - worked))  # less after the end of one of two
        before, worked = now, work
        if idle_s > limits.idle_s:
            return Ending.TIMEOUT
        if now - started > limits.wall_s:
            return Ending.STALLED
    processes[0].read(limits.output_bytes)
    return Ending.OUTPUT if len(processes[0].output) > limits.output_bytes else None


def _wait_for_output(process: SandboxedProcess, limit: int) -> bool:
    """Wait for output or the end of a process, at most a moment; return whether its pipe was full."""
    poller = select.poll()
    with contextlib.ExitStack() as stack:
        wait_ms = _SLICE_S * 1000
        if hasattr(os, "pidfd_open"):
            ended = os.pidfd_open(process.pid)
            stack.callback(os.close, ended)
            poller.register(ended, select.POLLIN)
        else:
            wait_ms = 20.0
        if process.stdout is not None:
            poller.register(process.stdout, select.POLLIN)
        poller.poll(wait_ms)
    return process.read(limit)


def _worked(processes: Sequence[SandboxedProcess]) -> tuple[float, bool]:
    """Return the seconds for which any of the processes ran, or waited for a processor; and whether one is stopped."""
    samples = [process.sample() for process in processes]
    return sum(cpu for cpu, _, _ in samples) + max(delay for _, delay, _ in samples), any(stop for *_, stop in samples)


def _ending(process: SandboxedProcess, limits: Limits) -> Ending:
    """Return how a process that has ended by itself did so."""
    code = process.code
    if code == 0:
        return Ending.PASSED
    if code is None or code > 0:
        return {MEMORY: Ending.MEMORY, OUTPUT: Ending.OUTPUT, DENIED: Ending.DENIED}.get(code or 0, Ending.FAILED)
    if -code == signal.SIGXCPU or (-code == signal.SIGKILL and process.cpu_s >= limits.cpu_s):
        return Ending.TIMEOUT
    # The filter of system calls keeps a program from killing itself. Without it, its end is its own doing.
    outside = -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP) and walls().get("system calls", False)
    return Ending.KILLED if outside else Ending.CRASH


def _cause_of_failure(tester: SandboxedProcess, program: SandboxedProcess, limits: Limits) -> Ending:
    """Return why tests have not passed: how the program ended, if it ended in a call, or else how the tests did."""
    if tester.code != ENDED:
        return _failure(_ending(tester, limits))
    deadline = time.monotonic() + _GRACE_S
    while not program.ended() and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    return _failure(_ending(program, limits)) if program.ended() else Ending.FAILED


def _failure(ending: Ending) -> Ending:
    """Return the ending of a run that has not passed: a process that ended with exit code 0 has failed as well."""
    return Ending.FAILED if ending is Ending.PASSED else ending
