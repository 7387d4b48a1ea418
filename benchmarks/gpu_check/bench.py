"""A part's settings, and its interface for storing measurements."""

from __future__ import annotations

import gc
import importlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Value = float | int | str | bool | None
Size = Literal["full", "tiny"]
ROOT = Path(__file__).parent.parent.parent
ERROR_LINES = 12
"""Number of an error's last lines that are stored; the log has all lines."""


@dataclass(frozen=True)
class GpuCheck:
    """One claim to check, or several with the same requirements.

    Args:
        name: its name on the command line.
        settles: what it checks, for the table.
        run: dotted name of a function of ``Bench`` that measures, calls ``Bench.row``, and raises if something is wrong; it
            is imported in the part's process.
        seconds: time limit on a GPU.
        arguments: further arguments of the function.
        alone: whether it must not run in parallel with other parts, which would disturb its timings.
        needs: modules without which it is skipped.
        cuda_only: whether it does not run on a CPU.
    """

    name: str
    settles: str
    run: str
    seconds: float
    arguments: tuple[str, ...] = ()
    alone: bool = False
    needs: tuple[str, ...] = ()
    cuda_only: bool = False


@dataclass(frozen=True)
class Bench:
    """A part's device and size, and its interface for storing results.

    Args:
        part: name of the part.
        device: ``cuda`` or ``cpu``.
        size: ``full``, or ``tiny`` for a rehearsal.
        results: the JSON lines file.
        scratch: an empty folder for this part.
        failed_rows: labels of the rows that ``attempt`` could not measure.
    """

    part: str
    device: str
    size: Size
    results: Path
    scratch: Path
    failed_rows: list[str] = field(default_factory=list)

    @property
    def tiny(self) -> bool:
        return self.size == "tiny"

    def row(self, label: str, **values: Value) -> None:
        """Append one measured row to the results immediately."""
        append(self.results, {"part": self.part, "row": label, "values": values})
        print(f"[{self.part}] {label}: {values}", flush=True)

    @contextmanager
    def attempt(self, label: str) -> Iterator[None]:
        """Measure one of several independent rows: an error is stored as the row, and the part continues.

        Memory held by an error's traceback is freed afterwards.
        """
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed_rows.append(label)
            append(self.results, {"part": self.part, "row": label, "error": error_lines(error, 2)})
        self.free()

    def sync(self) -> None:
        """Wait for the device, whose work is asynchronous."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def free(self) -> None:
        """Free unreferenced memory, also on the device."""
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()

    def reset_peak(self) -> None:
        """Start a new measurement of ``peak_gib``."""
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """Return the peak GPU memory of tensors since ``reset_peak``, in GiB; None on a CPU."""
        if self.device != "cuda":
            return None
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> list[float]:
        """Return the wall time in seconds of each of ``repeats`` runs after a warm-up run, including the device's work."""
        work()
        times = []
        for _ in range(repeats):
            self.sync()
            start = time.perf_counter()
            work()
            self.sync()
            times.append(time.perf_counter() - start)
        return times


def append(path: Path, record: dict[str, object]) -> None:
    """Append a record as one line in one write, since several processes append to the file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def error_lines(error: BaseException, lines: int = ERROR_LINES) -> str:
    """Return the last lines of an error as Python would print it."""
    text = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return "\n".join(text[-lines:])[-2000:]


def preload(modules: tuple[str, ...]) -> None:
    """Import modules, and print the error of each that fails or exits."""
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit):
            traceback.print_exc()
            print(f"not preloaded: {name}", flush=True)
