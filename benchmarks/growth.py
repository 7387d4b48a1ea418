"""Growth of time and peak memory with length, group size, groups and vocabulary: python -m benchmarks.growth

    python -m benchmarks.growth --out benchmarks/results/growth.md      # three minutes on a busy machine, one thread

Four parts are measured: an optimizer step of the trainer (``benchmarks.trainers``), credit (``ThoughtCredit``), the rule judge
and the store (a round written and read again). Along each axis one size doubles and the others stay; all sizes of an axis take
turns (the trainer's come one after the other), and of each the least processor time of ``--repeats`` passes counts. Peak memory
is what is allocated beyond what was held before: Python's and NumPy's by ``tracemalloc``, in a pass of its own; the trainer's
by how far the resident set rises. Python's garbage collector is off while credit, judge and store are timed: its full passes
walk through all that the process holds, torch included, and one more of them between two sizes would look like growth.

An exponent b is that of a least-squares fit of log(value) = a + b log(size): 1 is linear. Fixed costs make it smaller, so the
local exponent between the two largest sizes stands beside it. Above ``--limit`` a row is marked. The trainer's attention is
quadratic in the length, so its exponent there has no limit.
"""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_check.models import Architecture, Mix, step_batch
from benchmarks.growth_parts import WORK, Size
from benchmarks.memory import resident_bytes, restart_peak
from benchmarks.reports import add_out, opening, publish
from benchmarks.trainers import OurSettings, Steps, run_ours


@dataclass(frozen=True, slots=True)
class Growth:
    """Seconds and peak bytes along one axis."""

    part: str
    axis: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    peaks: tuple[float, ...]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return b of the least-squares fit log(value) = a + b log(size).

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# ---- time and memory ----


def time_and_peak(work: Sequence[Callable[[], object]], repeats: int) -> tuple[list[float], list[float]]:
    """Return the least processor time of each, without garbage collection, and its peak of allocated bytes; they take turns."""
    best, peaks = [math.inf] * len(work), []
    for _ in range(repeats):
        for i, run in enumerate(work):
            gc.collect()
            gc.disable()
            try:
                started = time.process_time()
                run()
                best[i] = min(best[i], time.process_time() - started)
            finally:
                gc.enable()
    for run in work:
        gc.collect()
        tracemalloc.start()
        run()
        peaks.append(float(tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    return best, peaks


def step_time_and_peak(size: Size, repeats: int) -> tuple[float, float]:
    """Return the least processor time of an optimizer step, and how far the resident set rises above that before all steps."""
    arch = Architecture(128, 256, 2, 4, 2, size.vocabulary, max_position_embeddings=8192)
    batch = step_batch(arch, Mix(16, (size.length,) * size.solutions), group_size=size.group_size)
    seconds: list[float] = []
    held = started = 0.0

    def before() -> None:
        nonlocal held, started
        if not seconds:
            held = restart_peak()
        started = time.process_time()

    def after() -> None:
        seconds.append(time.process_time() - started)

    with tempfile.TemporaryDirectory() as scratch:
        run_ours(arch, batch, OurSettings(2048), Steps(1 + repeats, before, after), "cpu", Path(scratch))
    return min(seconds[1:]), max(resident_bytes("VmHWM") - held, 1.0)


# ---- the axes ----

BASE = {
    "credit": Size(length=1024, group_size=8, groups=2),
    "rule judge": Size(length=1000, group_size=4, groups=2),
    "store": Size(length=2000, group_size=4, groups=2),
    "trainer step": Size(length=128, group_size=4, groups=2),
}
AXES: dict[tuple[str, str], tuple[int, ...]] = {
    ("credit", "length"): (2048, 4096, 8192, 16_384),
    ("credit", "group_size"): (8, 16, 32, 64),
    ("credit", "groups"): (4, 8, 16, 32),
    ("rule judge", "length"): (12_500, 25_000, 50_000, 100_000),
    ("rule judge", "group_size"): (4, 8, 16, 32),
    ("rule judge", "groups"): (4, 8, 16, 32),
    ("store", "length"): (4000, 8000, 16_000, 32_000),
    ("store", "group_size"): (4, 8, 16, 32),
    ("store", "groups"): (2, 4, 8, 16),
    ("trainer step", "length"): (128, 256, 512, 1024),
    ("trainer step", "group_size"): (4, 8, 16, 32),
    ("trainer step", "groups"): (2, 4, 8, 16),
    ("trainer step", "vocabulary"): (8192, 16_384, 32_768, 65_536),
}
QUADRATIC = ("trainer step", "length")
LEAST = {"length": 64, "group_size": 2, "groups": 1, "vocabulary": 512}
"""Smallest sizes with which every part can be measured."""


def scaled(axis: str, sizes: Sequence[int], scale: float) -> tuple[int, ...]:
    """Scale the smallest size, not below the axis's least, and keep the ratios of the others to it.

    >>> scaled("groups", (4, 8, 16, 32), 0.1)
    (1, 2, 4, 8)
    >>> scaled("length", (4000, 8000), 0.1)
    (400, 800)
    """
    smallest = max(LEAST[axis], int(sizes[0] * scale))
    return tuple(smallest * n // sizes[0] for n in sizes)


def measure(part: str, axis: str, sizes: tuple[int, ...], repeats: int) -> Growth:
    """Measure one part along one axis."""
    base = replace(BASE[part], groups=1, group_size=2) if (part, axis) == ("rule judge", "length") else BASE[part]
    along = [replace(base, **{axis: n}) for n in sizes]
    if part == "trainer step":
        pairs = [step_time_and_peak(size, repeats) for size in along]
        return Growth(part, axis, sizes, tuple(s for s, _ in pairs), tuple(p for _, p in pairs))
    seconds, peaks = time_and_peak([WORK[part](size) for size in along], repeats)
    return Growth(part, axis, sizes, tuple(seconds), tuple(peaks))


def row(growth: Growth, limit: float) -> str:
    """Return the table's row; exponents above the limit are bold."""
    cells = [growth.part, growth.axis, " ".join(f"{n:,}" for n in growth.sizes)]
    for values, unit in ((growth.seconds, 1e3), (growth.peaks, 1e-6)):
        fitted, last = exponent(growth.sizes, values), exponent(growth.sizes[-2:], values[-2:])
        over = fitted > limit and (growth.part, growth.axis) != QUADRATIC
        cells += [
            f"{values[0] * unit:.1f} to {values[-1] * unit:.1f}",
            f"**{fitted:.2f}**" if over else f"{fitted:.2f}",
        ]
        cells += [f"{last:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=list(BASE), default=list(BASE), metavar="PART", help=", ".join(BASE)
    )
    parser.add_argument("--repeats", type=int, default=3, help="passes of each size (default: %(default)s)")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="factor of the smallest size along each axis, to which the others keep their ratios (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=float, default=1.15, help="exponent above which a row is marked (default: %(default)s)"
    )
    add_out(parser)
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    if not 0 < args.scale < math.inf:
        parser.error(f"--scale must be positive and finite, got {args.scale}")
    torch.set_num_threads(1)
    lines = opening("Growth", "growth", arguments, args, threads=1)
    lines += [
        f"- least processor time of {args.repeats} passes; exponents of a log-log fit, and between the last two sizes",
        "",
    ]
    lines += ["| part | axis | sizes | ms | exponent | last | peak MB | exponent | last |", "|---" * 9 + "|"]
    for (part, axis), sizes in AXES.items():
        if part in args.parts:
            lines.append(row(measure(part, axis, scaled(axis, sizes, args.scale), args.repeats), args.limit))
            print(lines[-1], flush=True)
    publish(lines, args.out)


if __name__ == "__main__":
    main()
