"""Measure how long a report with many solutions takes to write, and to open in a headless browser.

    python -m benchmarks.report_page runs/quickstart/version_0
    python -m benchmarks.report_page judged.jsonl --solutions 2000 --repeats 5 --out benchmarks/results/report_page.md

The solutions are those of a run, or of a file that ``predict`` wrote, repeated up to the number wanted. The browser (chromium,
chromium-browser or google-chrome on the PATH) opens the page as a user does, with a new profile each time; its time is that of
the page's own clock up to the load event, when curves, filters and the first solutions are drawn.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reports import add_out, opening, publish, spread, table
from lit_tpgrpo.report import read_run, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str | None:
    """Return the browser's path, None if there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def opened(
    command: str, page: Path, profile: Path, *options: str, fragment: str = ""
) -> subprocess.CompletedProcess[str]:
    """Open a page in a headless browser; its output is the document after the scripts ran."""
    first = ["--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}", "--dump-dom"]
    first += ["--no-sandbox"] if os.geteuid() == 0 else []
    address = page.absolute().as_uri() + fragment
    return subprocess.run(
        [command, *first, *options, address], capture_output=True, text=True, timeout=1200, check=True
    )


def opened_ms(command: str, page: Path) -> int:
    """Open the page in a browser with a new profile; return the milliseconds to its load event, by its own clock."""
    with tempfile.TemporaryDirectory() as profile:
        document = opened(command, page, Path(profile)).stdout
    return int(re.findall(r'data-ready-ms="(\d+)"', document)[0])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, or a file that `predict` wrote")
    parser.add_argument("--solutions", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    add_out(parser)
    args = parser.parse_args(arguments)
    command = browser()
    if command is None:
        raise SystemExit(f"no browser is on the PATH, looked for {', '.join(BROWSERS)}")
    lines = opening("Report", "report_page", arguments, args, threads=1)
    run = read_run(args.run)
    if not run.solutions:
        raise SystemExit(f"{args.run} has no solutions")
    many = tuple(itertools.islice(itertools.cycle(run.solutions), args.solutions))
    repeated = dataclasses.replace(run, solutions=many)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        started = time.perf_counter()
        shown = write_report([repeated], page, args.solutions)
        written_s = time.perf_counter() - started
        ready = [opened_ms(command, page) / 1000 for _ in range(args.repeats)]
        size = page.stat().st_size / 1e6
    characters = sum(len(text) for solution in many for piece in solution.pieces for text in piece.steps) / len(many)
    rows = [(f"{shown:,}", f"{characters:.0f}", f"{size:.1f}", f"{written_s:.2f}", spread(ready))]
    lines += table(("solutions", "characters each", "MB", "s to write", "s to open"), rows)
    publish(lines, args.out)


if __name__ == "__main__":
    main()
