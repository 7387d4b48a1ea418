"""What a part is given, and how it says what it measured."""

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
"""Last lines of an error that a result keeps; the log has all."""


@dataclass(frozen=True)
class Part:
    """One claim, or a few that need the same things.

    Args:
        name: on the command line.
        settles: what is known after it, for the table.
        run: dotted name of a function of ``Bench`` that measures, calls ``Bench.row``, and raises what goes wrong; it is
            imported in the part's own process.
        seconds: time limit on a GPU.
        arguments: further ones of that function.
        alone: whether other parts would disturb what it times.
        needs: modules without which it is skipped.
        cuda_only: there is nothing to run on a CPU.
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
    """Where a part runs and how large, and its way to the results.

    Args:
        part: its name.
        device: ``cuda`` or ``cpu``.
        size: ``full``, or ``tiny`` for a rehearsal.
        results: the JSON lines file.
        scratch: an empty folder of the part's own.
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
        """Append one measured row at once."""
        append(self.results, {"part": self.part, "row": label, "values": values})
        print(f"[{self.part}] {label}: {values}", flush=True)

    @contextmanager
    def attempt(self, label: str) -> Iterator[None]:
        """One row among several that are independent: its error becomes the row, and the part goes on.

        Memory that an error's traceback held is free afterwards.
        """
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed_rows.append(label)
            append(self.results, {"part": self.part, "row": label, "error": error_lines(error, 2)})
        self.free()

    def sync(self) -> None:
        """Wait for the device: its work is asynchronous."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back what nothing refers to any more, to the device too."""
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()

    def reset_peak(self) -> None:
        """Begin a new measurement of ``peak_gib``."""
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """Most GPU memory that tensors took since ``reset_peak``, in GiB; None on a CPU."""
        if self.device != "cuda":
            return None
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> list[float]:
        """Wall time of each of some runs after one that warms up, the device's work included."""
        work()
        times = []
        for _ in range(repeats):
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            times.append(time.perf_counter() - began)
        return times


def append(path: Path, record: dict[str, object]) -> None:
    """One line in one write: several processes append to the file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def error_lines(error: BaseException, lines: int = ERROR_LINES) -> str:
    """The end of an error as Python would print it."""
    text = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return "\n".join(text[-lines:])[-2000:]


def preload(modules: tuple[str, ...]) -> None:
    """Import modules; print the error of each that fails, or that exits."""
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit):
            traceback.print_exc()
            print(f"not preloaded: {name}", flush=True)
