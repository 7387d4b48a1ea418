"""What the reports of all benchmarks share: machine, versions, threads, command and settings; where the text goes.

    lines = opening("Store", "store", arguments, args, threads=1)    # before measuring: it has the load at the start
    lines += table(("store", "Mtoken/s"), [("arrow", spread([1.0, 1.25, 1.5]))])
    publish(lines, args.out)

A report is Markdown that can be committed as it is: nothing of it is written by hand.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from statistics import median

import torch

from benchmarks.gpu_check.table import environment


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--out``."""
    parser.add_argument("--out", type=Path, help="file of the report, besides printing it")


def opening(
    title: str,
    module: str,
    arguments: Sequence[str] | None,
    args: argparse.Namespace,
    *,
    threads: int,
    device: str = "cpu",
) -> list[str]:
    """Return a report's first lines: title, date, machine, versions, load, command and settings.

    Args:
        title: the heading.
        module: name of the benchmark below ``benchmarks``.
        arguments: what ``main`` was called with; None: the command line's.
        args: the same, parsed; all settings are named, for defaults may change.
        threads: of torch in each process.
        device: ``cuda`` adds the GPU's name.
    """
    machine = environment(device, "full")
    hardware = [cpu_name(), machine["machine"], *([machine["gpu"]] if "gpu" in machine else [])]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *(sys.argv[1:] if arguments is None else arguments)])
    settings = {name: value for name, value in vars(args).items() if name != "out" and value is not None}
    return [
        f"# {title}",
        "",
        f"- {date.today().isoformat()}, `{command}`",
        f"- {'; '.join(hardware)}; {threads} thread(s); load average of the last minute {os.getloadavg()[0]:.1f} at the start",
        f"- Python {machine['python']}, {versions}",
        "- " + ", ".join(f"{name} {_shown(value)}" for name, value in settings.items()),
    ]


def _shown(value: object) -> str:
    return " + ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def cpu_name() -> str:
    """Return the processor's name, and whether it multiplies bfloat16 itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name} ({'with' if has_bf16() else 'without'} bfloat16 products)"


def has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a Markdown table with an empty line before it.

    >>> print("\\n".join(table(("", "seconds"), [("ours", "0.50")])[1:]))
    |  | seconds |
    |---|---|
    | ours | 0.50 |
    """
    head = list(columns)
    return ["", _row(head), "|---" * len(head) + "|", *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return median, lowest and highest.

    >>> spread([3.0, 1.0, 2.0], 1)
    '2.0 (1.0 to 3.0)'
    """
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def publish(lines: Iterable[str], out: Path | None) -> None:
    """Print a report, after writing it to ``out`` if that is given."""
    text = "\n".join(lines) + "\n"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    print(text, end="", flush=True)
