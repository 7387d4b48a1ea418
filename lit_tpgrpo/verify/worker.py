r"""Worker process that runs math-verify: ``python -m lit_tpgrpo.verify.worker``, JSON lines in and out, without torch.

It writes ``{"ready": true}`` once everything is imported, then replies to each ``[gold, answer]`` line with one ``Reply``
value. It exits when its input ends.

math-verify's time limits are off. They are an alarm that raises a Python exception, which has no effect while the
interpreter is inside one long multiplication (``9^{9^{9^9}}``), and may leave sympy in the middle of an update. Here the
alarm has its default action: the kernel ends the process. It measures the process's processor time, so that a comparison
gets the same verdict under any load of the machine. A second alarm measures wall-clock time; it comes after the parent's
limit and only matters if the parent no longer exists.

sympy evaluates the texts that it reads, and answers come from a model. So the process gets only the environment variables
that it needs (``environment``), and kernel limits: it can write no file and start no process, and a limit of processor time
works in addition to the alarm, in case the evaluated text turns the alarm off.
"""

from __future__ import annotations

import argparse
import enum
import json
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from lit_tpgrpo.verify.compare import compare
from lit_tpgrpo.verify.match import Match


class Reply(enum.Enum):
    """Result of one comparison. A worker sends the first four; the parent sets the remaining fields.

    All but the last two depend only on gold and answer.
    """

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSED = "unparsed"
    """Gold or answer cannot be read, by this package or by math-verify."""
    ERROR = "error"
    """The comparison raised an exception."""
    TIMEOUT = "timeout"
    """The comparison exceeded its processor time."""
    CRASH = "crash"
    """The comparison crashed its worker twice (by a stack overflow, for example)."""
    TOO_LONG = "too_long"
    """Gold or answer is longer than the verifier's limit."""
    STALLED = "stalled"
    """No reply within the wall-clock limit, twice, with processor time left: the machine is overloaded."""
    KILLED = "killed"
    """The worker was killed from outside, twice: by the kernel for lack of memory, by a scheduler or by a person."""


def load_comparison() -> Callable[[str, str], Reply]:
    """Import math-verify and return the function ``compare(gold, answer)``."""
    from lit_tpgrpo.verify.algebra import equal

    replies = {Match.SAME: Reply.CORRECT, Match.DIFFERENT: Reply.INCORRECT, Match.UNREADABLE: Reply.UNPARSED}

    def reply(gold: str, answer: str) -> Reply:
        try:
            return replies[compare(gold, answer, equal)]
        except Exception:
            return Reply.ERROR

    return reply


PASSED_ON = (
    "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT",
    "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8",
    "VIRTUAL_ENV", "CONDA_PREFIX",
)  # fmt: skip
"""Variables that an interpreter may need to locate its installation and packages; API keys and tokens are not among them."""


def environment(package_root: str) -> dict[str, str]:
    """Return a worker's environment: the variables in ``PASSED_ON``, and those set here."""
    search_path = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(search_path),
        # Sets of symbols are ordered by hash: a fixed seed gives a pair the same verdict in every worker and run.
        "PYTHONHASHSEED": "0",
        # No threads of numpy, in case something imports it: the worker must not start any.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def limit_resources(memory_mb: int) -> None:
    """Limit this process's memory to ``memory_mb`` MiB, and forbid core dumps, files and processes (root may still start
    processes)."""
    for limit, maximum in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_AS, memory_mb * 2**20),
    ):
        if limit == resource.RLIMIT_AS and sys.platform == "darwin":
            continue  # macOS refuses a limit below the address space in use, which is hundreds of GB from the start
        resource.setrlimit(limit, (maximum, maximum))


def allow_cpu(seconds: float) -> None:
    """Let the kernel end this process with SIGXCPU after ``seconds`` more of processor time, rounded up, plus one."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def load_pairs() -> Callable[[Any], Any]:
    """Return the function from ``[gold, answer]`` to the value of a ``Reply``, ready to compare."""
    decide = load_comparison()
    for pair in (("1", "2"), (r"\frac{1}{2}", "0.5"), ("x+1", "1+x"), ("(1, 2)", r"\{1,2\}")):
        decide(*pair)  # sympy imports and compiles on first use, which must not count towards the first comparison
    return lambda pair: decide(*pair).value


def serve(load: Callable[[], Callable[[Any], Any]], cpu_s: float, alarm_s: float, memory_mb: int) -> None:
    """Reply to requests until the input ends.

    Args:
        load: imports what is needed and returns the function from a request to its reply, both JSON values.
        cpu_s: processor seconds per request.
        alarm_s: wall-clock seconds per request.
        memory_mb: limit of the address space in MiB.
    """
    # Replies use a private copy of stdout, so that nothing else that prints can mix with them.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles ctrl-C
    for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)

    def send(message: object) -> None:
        replies.write(json.dumps(message) + "\n")

    try:
        answer = load()
    except ImportError as error:
        send({"error": f"{type(error).__name__}: {error}"})
        return
    limit_resources(memory_mb)
    send({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        allow_cpu(cpu_s)
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        reply = answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(reply)


def run_worker(load: Callable[[], Callable[[Any], Any]], description: str) -> None:
    """Run the main program of a worker; ``load``: see ``serve``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cpu-s", type=float, default=5.0, help="processor seconds per request, then the process ends")
    parser.add_argument("--alarm-s", type=float, default=60.0, help="wall-clock seconds, then the process ends")
    parser.add_argument("--memory-mb", type=int, default=1024, help="limit of the address space in MiB")
    args = parser.parse_args()
    try:
        serve(load, args.cpu_s, args.alarm_s, args.memory_mb)
    except BrokenPipeError:  # the parent has exited
        os._exit(1)


if __name__ == "__main__":
    run_worker(load_pairs, "Compare answers with math-verify; a MathVerifier starts this.")
