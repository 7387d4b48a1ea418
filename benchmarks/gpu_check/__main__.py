"""The command line of ``benchmarks.gpu_check``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import gpu_check
from benchmarks.gpu_check.bench import append
from benchmarks.gpu_check.parts import PARTS
from benchmarks.gpu_check.runner import Run, run_parts
from benchmarks.gpu_check.table import environment, other_environment, read_records, render


def main(arguments: list[str] | None = None) -> int:
    """Run the parts, or print the table of those that ran; return 0 if none failed."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=gpu_check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=names, metavar="PART", help="parts to run (default: all)")
    parser.add_argument("--without", nargs="+", choices=names, metavar="PART", default=[], help="parts to leave out")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help="default: %(default)s")
    parser.add_argument("--budget", type=float, help="seconds in total (default: 480 on a GPU, no limit on a CPU)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument(
        "--jobs", type=int, default=4, help="parts in parallel, if they allow it (default: %(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="list the parts")
    parser.add_argument("--table", action="store_true", help="only write the table of the results in --out")
    args = parser.parse_args(arguments)
    if args.list:
        for part in PARTS:
            print(f"{part.name:<14}{part.seconds:>5.0f} s  {part.settles}")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    budget = args.budget or (480.0 if args.device == "cuda" else float("inf"))
    run = Run(args.device, args.size, args.out.resolve(), budget, args.jobs)
    if args.table:
        print(write_table(run))
        return 0
    chosen = [
        part for part in PARTS if (args.parts is None or part.name in args.parts) and part.name not in args.without
    ]
    current = environment(args.device, args.size)
    other = other_environment(read_records(run.results), current) if run.results.exists() else None
    if other is not None:
        sys.exit(f"{args.out} contains results of {other}: give another folder with --out, or remove {run.results}")
    append(run.results, {"environment": current | {"parts": [part.name for part in chosen]}})
    ok = run_parts(run, chosen, lambda: write_table(run))
    print(write_table(run))
    return 0 if ok else 1


def write_table(run: Run) -> str:
    """Write ``table.md`` from the results so far, and return its text."""
    text = render(read_records(run.results), PARTS)
    (run.out / "table.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    sys.exit(main())
