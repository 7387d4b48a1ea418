"""The command: ``python -m lit_tpgrpo.report RUN... --out report.html``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.report.experiments import experiments
from lit_tpgrpo.report.page import MAX_SOLUTIONS, write_report
from lit_tpgrpo.report.runs import RunData, read_run
from lit_tpgrpo.user_errors import one_line_errors

_EXAMPLES = """examples:
  python -m lit_tpgrpo.report runs/quickstart/version_0
  python -m lit_tpgrpo.report runs/quickstart/version_* runs/quickstart-outcome_only/version_* --out comparison.html
  python -m lit_tpgrpo.report ours=runs/a/version_0 ours=runs/b/version_0 plain=runs/c/version_0
  python -m lit_tpgrpo.report judged.jsonl
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; a user error ends it with one line."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m lit_tpgrpo.report",
        description="Write a report of runs as one HTML page: curves, rounds, stage times, settings that differ, solutions.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, or a file that `predict` wrote; LABEL=RUN puts runs of one label together, as seeds of one "
        "experiment. Without labels runs whose settings differ in the seed alone are together",
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    parser.add_argument(
        "--max_solutions",
        type=int,
        default=MAX_SOLUTIONS,
        help="solutions in the page, over all runs (default: %(default)s)",
    )
    options = parser.parse_args(args)
    with one_line_errors():
        named = [_label_and_path(given) for given in options.runs]
        begun = [(label, path) for label, path in named if not _is_empty(path)] or named
        for label, path in named:
            if (label, path) not in begun:  # that of a run whose settings were refused; a shell's pattern names it too
                print(f"skipped: {path} is empty: no run was begun there", file=sys.stderr)
        runs = [read_run(path, label) for label, path in begun]
        repeated = [run.path for run in runs if sum(run.path.resolve() == other.path.resolve() for other in runs) > 1]
        if repeated:
            raise InputError(f"{repeated[0]} is given more than once; give each run once")
        shown = write_report(runs, options.out, options.max_solutions)
        size = options.out.stat().st_size / 1e6
        print(f"report: {options.out} ({_counts(runs)}, {shown} solutions, {size:.1f} MB; open it in a browser)")


def _label_and_path(given: str) -> tuple[str, Path]:
    """Return label and path of ``RUN`` or ``LABEL=RUN``; a path that exists is never taken for a label."""
    label, equals, path = given.partition("=")
    if equals and label and path and not Path(given).exists():
        return label, Path(path)
    return "", Path(given)


def _is_empty(path: Path) -> bool:
    """Return whether a folder holds nothing but the hidden file of a run's lock."""
    return path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir())


def _counts(runs: Sequence[RunData]) -> str:
    groups = len(experiments(runs))
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs of {groups} experiment{'s' * (groups > 1)}"


if __name__ == "__main__":
    main()
