"""The study: do thought-level rewards help? python -m benchmarks.study [--short | --full] [--arms A B] [--seeds 0 1]

Trains every arm of arms.yaml on every seed, on equal numbers of solutions, and writes tables, pictures and one result a run to
benchmarks/results/study. It can be interrupted (ctrl-C) and started again: runs with a result are not repeated, an interrupted
one goes on from its checkpoint. ``--report-only`` writes tables and pictures of the results that are there. ``sweep`` tunes
settings on outcome-only GRPO alone: python -m benchmarks.study sweep. Exits with 1 if a run failed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from benchmarks.study.report import write_report
from benchmarks.study.results import Results
from benchmarks.study.runs import Runner
from benchmarks.study.settings import ARMS, ROOT, read_study
from benchmarks.study.sweep import SWEEP, read_sweep, write_sweep
from lit_tpgrpo.user_errors import one_line_errors

OUT = ROOT / "benchmarks" / "results"
_INTERRUPTED = 130


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=["run", "sweep"], default="run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", dest="budget", action="store_const", const="short", help="the default budget")
    length.add_argument("--full", dest="budget", action="store_const", const="full", help="more steps and seeds")
    parser.add_argument("--arms", nargs="+", help="names of arms; by default all")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these; the report has the budget's too")
    parser.add_argument("--processes", type=int, default=cores(), help="runs side by side (default: cores)")
    parser.add_argument("--out", type=Path, help="folder of results; by default benchmarks/results/study or study_full")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "study", help="folder of the runs themselves")
    parser.add_argument("--settings", type=Path, default=ARMS, help="file of arms and budgets")
    parser.add_argument("--grid", type=Path, default=SWEEP, help="file of the sweep")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    parser.set_defaults(budget="short")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    args = parse(given)
    out: Path = args.out or OUT / ("study" if args.budget == "short" else "study_full")
    study = read_study(args.settings, args.budget)
    chosen = study.budget.seeds if args.seeds is None else args.seeds
    whole = study.select(None, [*study.budget.seeds, *(s for s in chosen if s not in study.budget.seeds)])
    sweep = read_sweep(args.grid, study) if args.command == "sweep" else None
    if sweep is not None:
        study, results = sweep.study, Results(out / "sweep")
    else:
        study, results = whole.select(args.arms, chosen), Results(out)
    command = shlex.join(["python", "-m", "benchmarks.study", *given])
    runner = Runner(study, results, args.work, args.processes)
    interrupted = False
    if not args.report_only:
        try:
            runner.run()
        except KeyboardInterrupt:
            interrupted = True
    written = write_report(whole, results, out, command) if sweep is None else write_sweep(sweep, results, out)
    if written:
        print(f"written: {', '.join(str(path) for path in written)}", flush=True)
    for failure in runner.failed:
        print(f"failed: {failure}", file=sys.stderr)
    if interrupted:
        print("interrupted; the same command goes on", file=sys.stderr)
    return _INTERRUPTED if interrupted else int(bool(runner.failed))


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
