r"""The process that runs math-verify: ``python -m lit_tpgrpo.verify.worker``, JSON lines in and out, never torch.

It writes ``{"ready": true}`` once everything is imported, then answers each ``[gold, answer]`` line with one
``Reply`` value. It leaves when its input ends.

math-verify's own time limits are off. They are an alarm that raises a Python exception, which does nothing while the
interpreter is inside one long multiplication (``9^{9^{9^9}}``) and may leave sympy half-way through an update. Here
the alarm has its default action: the kernel ends the process, wherever it is. It counts the process's own processor
time, so that a comparison gets the same verdict however much else the machine has to do. A second alarm counts the wall
clock: the parent's limit comes before it, and it is for the day when the parent is no longer there.

sympy evaluates what it reads, and answers come from a model. So the process has no variable of the environment that it does
not need (``environment``), and the kernel's limits: it writes no file, starts no process, and a limit of processor time
counts beside the alarm, should what it evaluates turn that off.
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

from lit_tpgrpo.verify.compare import compare
from lit_tpgrpo.verify.match import Match


class Reply(enum.Enum):
    """What became of one comparison. A worker says the first four, its parent the others.

    All but the last two depend on gold and answer alone.
    """

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSED = "unparsed"
    """Gold or answer cannot be read, by us or by math-verify."""
    ERROR = "error"
    """The comparison itself raised."""
    TIMEOUT = "timeout"
    """It used up its processor time."""
    CRASH = "crash"
    """It ended its worker by itself (a stack overflow, say), twice."""
    TOO_LONG = "too_long"
    STALLED = "stalled"
    """No reply within the wall-clock limit, twice, though there was processor time left: the machine is overloaded."""
    KILLED = "killed"
    """Its worker was killed from outside, twice: the machine is short of memory, or somebody ended it."""


def load_comparison() -> Callable[[str, str], Reply]:
    """Import math-verify and return ``compare(gold, answer)``."""
    from lit_tpgrpo.verify.algebra import equal

    replies = {Match.SAME: Reply.CORRECT, Match.DIFFERENT: Reply.INCORRECT, Match.UNREADABLE: Reply.UNPARSED}

    def reply(gold: str, answer: str) -> Reply:
        try:
            return replies[compare(gold, answer, equal)]
        except Exception:
            return Reply.ERROR

    return reply


PASSED_ON = (
    *(
        "PATH",
        "HOME",
        "TMPDIR",
        "TZ",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "SYSTEMROOT",
    ),
    *(
        "PYTHONHOME",
        "PYTHONUSERBASE",
        "PYTHONNOUSERSITE",
        "PYTHONPYCACHEPREFIX",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUTF8",
    ),
    *("VIRTUAL_ENV", "CONDA_PREFIX"),
)
"""Variables that an interpreter may need to find itself and its packages; keys and tokens are not among them."""


def environment(package_root: str) -> dict[str, str]:
    """Variables of a worker's environment: those named in ``PASSED_ON``, and ours."""
    search_path = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(search_path),
        # Sets of symbols are ordered by hash: one seed, so that a pair gets one verdict in every worker and run.
        "PYTHONHASHSEED": "0",
        # No threads of numpy's, should something import it: the worker may start none.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def limit_resources(memory_mb: int) -> None:
    """Take from this process what a comparison does not need: memory, cores, files, processes (root may still start those)."""
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_AS, memory_mb * 2**20),
    ):
        if limit == resource.RLIMIT_AS and sys.platform == "darwin":
            continue  # macOS refuses a limit below what it has mapped for the process already, which is hundreds of GB
        resource.setrlimit(limit, (most, most))


def allow_cpu(seconds: float) -> None:
    """Have the kernel end this process with SIGXCPU when it has used so many more seconds, rounded up, and one."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (until if most == resource.RLIM_INFINITY else min(until, most), most))


def serve(cpu_s: float, alarm_s: float, memory_mb: int) -> None:
    """Answer until the input ends."""
    # Anything that prints must not end up among the replies: they go through a private copy of stdout.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for ends in (signal.SIGALRM, signal.SIGPROF, signal.SIGXCPU):
        signal.signal(ends, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)

    def send(message: object) -> None:
        replies.write(json.dumps(message) + "\n")

    try:
        decide = load_comparison()
    except ImportError as error:
        send({"error": f"{type(error).__name__}: {error}"})
        return
    for pair in (("1", "2"), (r"\frac{1}{2}", "0.5"), ("x+1", "1+x"), ("(1, 2)", r"\{1,2\}")):
        decide(*pair)  # sympy imports and compiles on first use; that must not count against the first item
    limit_resources(memory_mb)
    send({"ready": True})
    for line in sys.stdin:
        gold, answer = json.loads(line)
        allow_cpu(cpu_s)
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        reply = decide(gold, answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(reply.value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare answers with math-verify; a MathVerifier starts this.")
    parser.add_argument("--cpu-s", type=float, default=5.0, help="processor seconds of a comparison after which to die")
    parser.add_argument("--alarm-s", type=float, default=60.0, help="seconds of wall clock after which to die")
    parser.add_argument("--memory-mb", type=int, default=1024, help="limit of the address space")
    args = parser.parse_args()
    try:
        serve(args.cpu_s, args.alarm_s, args.memory_mb)
    except BrokenPipeError:  # the parent has gone
        os._exit(1)


if __name__ == "__main__":
    main()
