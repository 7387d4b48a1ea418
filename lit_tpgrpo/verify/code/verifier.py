"""Verify programs by unit tests, in processes that can do nothing else."""

from __future__ import annotations

import logging
import math
import re
import threading
import weakref
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, InvalidOperation

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify.base import Verifier
from lit_tpgrpo.verify.code.blocks import last_program
from lit_tpgrpo.verify.code.process import Limits
from lit_tpgrpo.verify.code.sandbox import Ending, Sandbox, walls
from lit_tpgrpo.verify.code.unit_tests import UnitTests, read_unit_tests

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|inf(inity)?)", re.ASCII | re.IGNORECASE)
_CODE = re.compile(r"[+-]?0\d+", re.ASCII)
"""An integer with leading zeros: they may be what was asked for."""
_MACHINE = (Ending.STALLED, Ending.KILLED)
_OUTCOMES = {Ending.PASSED: Outcome.CORRECT, Ending.FAILED: Outcome.INCORRECT} | dict.fromkeys(
    _MACHINE, Outcome.UNDECIDED
)


@checked_arguments()
class CodeVerifier(Verifier):
    """Verifier that runs Python programs of the policy against unit tests.

    An answer is the last block fenced as Python; a gold holds the tests (``unit_tests`` gives its forms). CORRECT if all pass.
    INCORRECT if one fails or raises. UNVERIFIABLE, rewarded as incorrect, if the program exhausts or breaks its limits: time,
    memory, output, a process or a connection that it starts, a crash. UNDECIDED if the machine killed or starved it, twice.

    Programs and tests run in processes without network, files, other processes and signals, with an environment of their own;
    tests and program are never in the same process. Which walls are up depends on the system: they are logged at the start.

    Args:
        workers: programs that run at the same time.
        timeout_s: processor seconds for each test, rounded up to whole seconds; also the most seconds a program may wait.
        memory_mb: limit of a process's address space in MiB.
        max_output_bytes: most output of a program for one input.
        max_program_chars: a longer program is UNVERIFIABLE.
        wall_timeout_s: seconds for each test after which it is retried once and then UNDECIDED; by default ten times
            the processor seconds.
        site_packages: let programs and tests import installed packages, not the standard library alone.
        prelude: Python code that runs before each program, in its namespace, such as ``from typing import *``. Answers in
            LeetCode's form use names (``List``) that its site has imported.
        allow_unisolated: run programs also where the kernel cannot filter system calls (macOS, other machines than x86_64 and
            arm64). Then a program can do what this user can, but for its limits of time and memory.
    """

    def __init__(
        self,
        workers: int = 2,
        timeout_s: float = 5.0,
        memory_mb: int = 1024,
        max_output_bytes: int = 1_000_000,
        max_program_chars: int = 100_000,
        wall_timeout_s: float | None = None,
        site_packages: bool = False,
        prelude: str = "",
        allow_unisolated: bool = False,
    ) -> None:
        positive = {"workers": workers, "timeout_s": timeout_s, "max_output_bytes": max_output_bytes}
        for name, value in (positive | {"max_program_chars": max_program_chars}).items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive, got {value}")
        if memory_mb < 128:
            raise ConfigError(f"memory_mb must be at least 128 (an idle interpreter needs about 40), got {memory_mb}")
        cpu_s = math.ceil(timeout_s)
        wall = 10.0 * cpu_s if wall_timeout_s is None else wall_timeout_s
        if not wall >= (least := cpu_s + 1 + timeout_s):
            raise ConfigError(
                f"wall_timeout_s must be at least {least} (the processor seconds, one until a program that ignores their end "
                f"is killed, and the seconds in which it may wait), got {wall}: a program could use up its time and pass that "
                "off as the machine's fault"
            )
        try:
            compile(prelude, "prelude", "exec")
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"prelude must be Python code, got {prelude[:120]!r}: {error}") from error
        self._prelude = prelude
        self._limits = Limits(cpu_s, memory_mb, max_output_bytes, timeout_s, wall, site_packages)
        self.settings = {
            "timeout_s": timeout_s,
            "memory_mb": memory_mb,
            "site_packages": site_packages,
            "prelude": prelude,
        }
        check_walls(allow_unisolated)
        self._workers, self._max_chars = workers, max_program_chars
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._sandbox: Sandbox | None = None
        self._end: weakref.finalize | None = None
        self._read_a_gold = False

    def extract(self, text: str) -> str | None:
        """Return the last block of an answer block that is fenced as Python, None if there is none."""
        return last_program(text)

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]:
        """Run each program against the tests of its gold; return the outcomes in order. Equal pairs are run once.

        Raises:
            ConfigError: this system cannot isolate the programs.
            InputError: no gold of the first call holds tests that can be read; later ones make the outcome UNVERIFIABLE.
        """
        listed = list(pairs)
        faults: list[InputError] = []
        tests = {gold: self._tests(gold, faults) for gold in dict.fromkeys(gold for gold, _ in listed)}
        if faults and not self._read_a_gold:
            raise faults[0]
        if faults:
            log.warning(
                "%d golds hold no tests that can be read; their programs count as wrong: %s", len(faults), faults[0]
            )
        distinct = list(dict.fromkeys(listed))
        sandbox = self._open()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="code") as pool:
            futures = [pool.submit(self._outcome, sandbox, tests[gold], code) for gold, code in distinct]
            try:
                found = dict(zip(distinct, (future.result() for future in futures), strict=True))
            except BaseException:  # ctrl-C, or one that could not be run: do not finish the others first
                for future in futures:
                    future.cancel()
                self.close()
                raise
        with self._lock:
            for outcome, cause in map(found.__getitem__, listed):
                self._counts.update(["pairs", outcome.value, *([cause] if cause else [])])
        return [found[pair][0] for pair in listed]

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call, and reset them.

        ``pairs`` is the total of ``correct``, ``incorrect``, ``unverifiable`` (``timeout``, ``memory``, ``output``, ``denied``,
        ``crash``, ``too_long`` or ``unreadable_gold``) and ``undecided`` (``stalled`` or ``killed``). ``retries`` counts tests
        that were run a second time.
        """
        causes = [e.value for e in Ending if e not in (Ending.PASSED, Ending.FAILED)]
        names = ("pairs", *(o.value for o in Outcome), *causes, "too_long", "unreadable_gold", "retries")
        with self._lock:
            counts = {name: float(self._counts[name]) for name in names}
            self._counts.clear()
        return counts

    def close(self) -> None:
        """Kill all programs. May be called twice; a later ``verify_all`` starts new ones."""
        self._sandbox = None
        if self._end is not None:
            self._end()

    def _open(self) -> Sandbox:
        if self._sandbox is None:
            report_walls()
            self._sandbox = Sandbox(self._limits, self._prelude)
            self._end = weakref.finalize(self, self._sandbox.close)  # also at the interpreter's exit
        return self._sandbox

    def _tests(self, gold: str, faults: list[InputError]) -> UnitTests | None:
        try:
            tests = read_unit_tests(gold)
        except InputError as fault:
            faults.append(fault)
            return None
        self._read_a_gold = True
        return tests

    def _outcome(self, sandbox: Sandbox, tests: UnitTests | None, code: str | None) -> tuple[Outcome, str]:
        """Return the outcome of a program, and the counter of its cause."""
        if tests is None:
            return Outcome.UNVERIFIABLE, "unreadable_gold"
        if code is None or not code.strip():
            return Outcome.INCORRECT, ""
        if len(code) > self._max_chars:
            return Outcome.UNVERIFIABLE, "too_long"
        ending = self._run(sandbox, tests, code)
        outcome = _OUTCOMES.get(ending, Outcome.UNVERIFIABLE)
        return outcome, "" if ending in (Ending.PASSED, Ending.FAILED) else ending.value

    def _run(self, sandbox: Sandbox, tests: UnitTests, code: str) -> Ending:
        """Run all tests up to the first that does not pass; one that the machine ended is run once more."""
        for stdin, expected in tests.programs:
            ending = self._run_program(sandbox, code, stdin, expected)
            if ending in _MACHINE:
                self._count_retry()
                ending = self._run_program(sandbox, code, stdin, expected)
            if ending is not Ending.PASSED:
                return ending
        if not tests.calls and not tests.code:
            return Ending.PASSED
        ending = sandbox.run_tests(code, tests)
        if ending in _MACHINE:
            self._count_retry()
            ending = sandbox.run_tests(code, tests)
        return ending

    @staticmethod
    def _run_program(sandbox: Sandbox, code: str, stdin: str, expected: str) -> Ending:
        ending, output = sandbox.run_program(code, stdin)
        return Ending.FAILED if ending is Ending.PASSED and not same_output(output, expected) else ending

    def _count_retry(self) -> None:
        with self._lock:
            self._counts["retries"] += 1


def check_walls(allow_unisolated: bool) -> None:
    """Check that this system can keep a program from other processes and from the network.

    Raises:
        ConfigError: it cannot, and ``allow_unisolated`` is off.
    """
    if not walls().get("system calls") and not allow_unisolated:
        up = ", ".join(name for name, there in walls().items() if there) or "none"
        raise ConfigError(
            f"CodeVerifier runs programs of the policy, and this system cannot filter their system calls (isolation: {up}): "
            "run it on Linux on x86_64 or arm64 with seccomp, or in a container of its own with allow_unisolated: true"
        )


def report_walls() -> None:
    """Say which walls are up around the policy's programs, and warn of what is missing."""
    up = [name for name, there in walls().items() if there]
    rank_zero_info(
        f"CodeVerifier runs the policy's programs isolated by: {', '.join(up) or 'nothing'}; limits in any case"
    )
    if "system calls" not in up:
        rank_zero_warn(
            "CodeVerifier: programs can use the network, start processes and end this user's (allow_unisolated)"
        )
    if "files" not in up:
        rank_zero_warn(
            "CodeVerifier: the kernel has no Landlock, so programs can read the files of this user, the data sets among them"
        )


def same_output(output: str, expected: str) -> bool:
    """Compare what a program printed with what is expected: line by line, without white space around and between words.

    Two numbers are equal by their value (``1.0`` and ``1.00``), exactly; integers with leading zeros are texts.

    >>> same_output("1.50  2\\n\\n", "1.5 2"), same_output("1 2", "1\\n2"), same_output("0.333", "0.3333")
    (True, False, False)
    """
    printed, wanted = ([line.split() for line in text.strip().splitlines()] for text in (output, expected))
    if len(printed) != len(wanted):
        return False
    pairs = zip(printed, wanted, strict=True)
    return all(len(a) == len(b) and all(_same_word(*words) for words in zip(a, b, strict=True)) for a, b in pairs)


def _same_word(printed: str, wanted: str) -> bool:
    if printed == wanted:
        return True
    if max(len(printed), len(wanted)) > 100:
        return False
    # Decimal reads more: digits of other scripts, and underscores between them.
    if not all(_NUMBER.fullmatch(word) and not _CODE.fullmatch(word) for word in (printed, wanted)):
        return False
    try:
        return Decimal(printed) == Decimal(wanted)
    except InvalidOperation:
        return False
