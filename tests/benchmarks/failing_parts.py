"""Parts that go wrong, for the runner's tests; imported in the parts' own processes."""

from __future__ import annotations

import subprocess
import sys
import threading

from benchmarks.gpu_check.bench import Bench


def succeeds(bench: Bench, word: str = "nothing") -> None:
    """Measures something."""
    bench.row("fine", said=word)


def fails(bench: Bench) -> None:
    """Measures something, then raises."""
    bench.row("before the error", n=1)
    raise ValueError("the card is on fire")


def fails_in_a_row(bench: Bench) -> None:
    """One of two rows cannot be measured."""
    with bench.attempt("first"):
        raise NotImplementedError("no such kernel")
    bench.row("second", n=2)


def waits_for_ever(bench: Bench) -> None:
    """Never ends, and neither does the program that it starts."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    bench.row("started", pid=child.pid)
    threading.Event().wait()


def waits_where_it_says(bench: Bench, fifo: str) -> None:
    """Writes its process and its program's into a pipe, and never ends."""
    import os

    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    with open(fifo, "w") as pipe:
        pipe.write(f"{os.getpid()} {child.pid}")
    threading.Event().wait()


def dies(bench: Bench) -> None:
    """The process is gone, as after a crash in a library."""
    import os

    os.abort()
