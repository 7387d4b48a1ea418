"""Soak test under injected faults: python -m benchmarks.soak [--rounds 300] [--processes 1 2] [--out DIR]

Trains the quickstart's policy for many short rounds, once undisturbed and once with faults: one request in ten to the judge's
endpoint fails, verifier workers are killed, files can no longer grow, and in every 20th round a training process gets
SIGKILL; each time the run is resumed from its folder. Reports whether both runs end with the same weights, bit for bit, and
the memory, open files and threads of the training processes at the beginning and at the end. Exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from benchmarks.soak.run import KILL_EVERY, Soak, SoakFailed, SoakOutcome
from benchmarks.soak.watch import ResourceReading

WARM_UP = 0.2
"""Share of a start's rounds before memory is measured, while caches fill and the allocator's pools grow."""
MAX_GROWTH_MB_PER_100_ROUNDS = 5.0
MAX_BETWEEN_STARTS_MB = 30.0
"""Memory by which the end of late starts may exceed that of early ones: a run must not hold in memory what it has stored."""


def after_warm_up(readings: list[ResourceReading]) -> list[ResourceReading]:
    """Drop the readings of the warm-up."""
    return readings[int(len(readings) * WARM_UP) :]


def growth(readings: list[ResourceReading]) -> float:
    """Return the growth of resident memory in MB per 100 rounds: median of the last third minus that of the first."""
    steady = after_warm_up(readings)
    third = len(steady) // 3
    if third == 0:
        return 0.0
    first, last = steady[:third], steady[-third:]
    rounds = median(r.round for r in last) - median(r.round for r in first)
    return (median(r.memory_mb for r in last) - median(r.memory_mb for r in first)) * 100 / max(rounds, 1)


def growth_between_starts(outcome: SoakOutcome) -> float:
    """Return the median memory in MB at the end of the last third of the starts minus that of the first third."""
    ends = [start[-1].memory_mb for start in outcome.readings if len(start) > 1]
    third = len(ends) // 3
    return median(ends[-third:]) - median(ends[:third]) if third else 0.0


def row(name: str, outcome: SoakOutcome, equal: str) -> list[str]:
    """Return the cells of a run's row in the table."""
    longest, steady = outcome.longest, after_warm_up(outcome.longest)
    first, last = steady[0], steady[-1]
    faults = sum(outcome.endpoint.values())
    return [
        name,
        str(outcome.starts),
        f"{outcome.kills} / {outcome.disks} / {outcome.workers} / {faults}",
        str(len(longest)),
        f"{first.memory_mb:.0f} to {last.memory_mb:.0f} ({growth(longest):+.1f})",
        f"{first.handles} to {last.handles}",
        f"{first.threads} to {last.threads}",
        f"{outcome.left} / {len(outcome.files)}",
        str(outcome.tracebacks),
        equal,
        f"{outcome.seconds:.0f}",
    ]


HEAD = [
    "run",
    "starts",
    "kill −9 / full disks / workers killed / endpoint faults",
    "longest start, rounds",
    "its memory, MB (in 100 rounds)",
    "open files",
    "threads",
    "processes / temporary files left",
    "tracebacks",
    "same weights",
    "s",
]


def table(rows: list[list[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def broken(outcome: SoakOutcome, equal: bool) -> list[str]:
    """Return the checks that a run failed."""
    longest, steady = outcome.longest, after_warm_up(outcome.longest)
    injected = not outcome.disturbed or (
        outcome.kills + outcome.disks == outcome.due > 0 and sum(outcome.endpoint.values()) > 0
    )
    checks = {
        "planned faults were not injected": injected,
        "the weights differ from the undisturbed run": equal,
        f"{outcome.left} processes were left behind": not outcome.left,
        f"temporary files were left behind: {', '.join(outcome.files[:5])}": not outcome.files,
        f"{outcome.tracebacks} starts ended with a traceback": not outcome.tracebacks,
        "memory grows": len(longest) < 100 or growth(longest) <= MAX_GROWTH_MB_PER_100_ROUNDS,
        "memory grows from start to start": growth_between_starts(outcome) <= MAX_BETWEEN_STARTS_MB,
        "open files grow": steady[-1].handles <= steady[0].handles + 4,
        "threads grow": steady[-1].threads <= steady[0].threads + 2,
    }
    return [fault for fault, passed in checks.items() if not passed]


def soak(rounds: int, processes: int, seed: int, kill_every: int, folder: Path) -> tuple[list[list[str]], list[str]]:
    """Run both runs on ``processes`` processes; return the rows of the table and the failed checks."""
    undisturbed = Soak(folder / f"undisturbed_{processes}", rounds, processes, False, seed, kill_every)
    disturbed = Soak(folder / f"disturbed_{processes}", rounds, processes, True, seed, kill_every)
    rows, faults = [], []
    for run, name in ((undisturbed, "undisturbed"), (disturbed, "disturbed")):
        outcome = run.run()
        (run.folder / "outcome.json").write_text(json.dumps(asdict(outcome), indent=1))
        weights, expected = run.weights(), undisturbed.weights()
        same = weights.keys() == expected.keys() and all(torch.equal(weights[k], expected[k]) for k in expected)
        label = f"{processes} process{'es' if processes > 1 else ''}, {name}"
        rows.append(row(label, outcome, "" if run is undisturbed else "yes" if same else "NO"))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        faults += [f"{label}: {fault}" for fault in broken(outcome, same)]
    return rows, faults


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="rounds of each run")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes to test")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument("--kill_every", type=int, default=KILL_EVERY, help="rounds between two kills of a process")
    parser.add_argument("--out", type=Path, help="new folder for logs and readings; by default nothing is kept")
    args = parser.parse_args(arguments)
    folder = args.out or Path(tempfile.mkdtemp(prefix="soak_"))
    rows, faults = [], []
    try:
        for processes in args.processes:
            more_rows, more_faults = soak(args.rounds, processes, args.seed, args.kill_every, folder)
            rows, faults = rows + more_rows, faults + more_faults
    except SoakFailed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        print(table(rows))
    if args.out is None:
        shutil.rmtree(folder)
    for fault in faults:
        print(f"failed: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
