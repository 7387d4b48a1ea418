"""Measure how fast rounds are stored and read, and their bytes a token: python -m benchmarks.store

    python -m benchmarks.store                                   # 64 solutions of 8,000 tokens, in groups of 8
    python -m benchmarks.store --solutions 512 --tokens 200      # short ones, as of the quickstart

``json`` is the store of before, which kept each token as Python numbers and wrote them as JSON: its writing and reading are
repeated here. Both stores write and read the same solutions, in alternation, on one thread; time is processor time of this
process. Printed are the median, lowest and highest million tokens a second over the repeats, bytes a token on disk (text and
prompt included), and in memory after reading (the text of each solution included, and named apart).

The solutions are made up: token ids and their strings by Zipf's law from a vocabulary of 50,000 strings of 1 to 7 letters,
log-probs of which half are within 0.01 of 0. Disks are not measured: the files lie in the page cache.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.records import Problem, Solution, StopReason
from lit_tpgrpo.rollout.round_file import RoundFile

PROBLEM = Problem("made/1", "What is the sum of all two-digit primes?", "1043", "made")
VOCABULARY, LONGEST = 50_000, 7


@dataclass(frozen=True, slots=True)
class NumberSolution:
    """A solution as it was: every token three Python numbers."""

    problem_uid: str
    sample: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: StopReason
    policy_version: int
    text: str
    token_starts: tuple[int, ...]


_NUMBERS = TypeAdapter(NumberSolution)
Groups = list[tuple[NumberSolution | Solution, ...]]


def made_solutions(count: int, tokens: int, seed: int = 0) -> list[NumberSolution]:
    """Make up solutions; log-probs are float32 numbers."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlu ,.=+01\n"))
    ends = np.cumsum(rng.integers(1, LONGEST + 1, VOCABULARY))
    drawn = "".join(rng.choice(letters, ends[-1]))
    strings = [drawn[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]
    made = []
    for sample in range(count):
        ids = (rng.zipf(1.2, tokens) % VOCABULARY).tolist()
        likely = rng.random(tokens) < 0.5
        logprobs = (-rng.exponential(np.where(likely, 0.003, 0.8))).astype(np.float32).tolist()
        lengths = [len(strings[i]) for i in ids]
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        text = "".join(strings[i] for i in ids)
        made.append(
            NumberSolution(
                "made/1",
                sample,
                tuple(range(150)),
                tuple(ids),
                tuple(logprobs),
                StopReason.EOS,
                3,
                text,
                tuple(starts),
            )
        )
    return made


def write_json(folder: Path, groups: Groups) -> None:
    """Write groups as the JSON store did."""
    for index, group in enumerate(groups):
        rows = [asdict(s) | {"stop": s.stop.value} for s in group]
        append_line(
            folder / "solutions.0.jsonl",
            {"groups": [{"group": index, "problem": asdict(PROBLEM), "solutions": rows}]},
        )


def read_json(folder: Path, size: int) -> list[NumberSolution]:
    """Read groups as the JSON store did."""
    lines = read_lines(folder / "solutions.0.jsonl")
    return [_NUMBERS.validate_python(row) for line in lines for row in line["groups"][0]["solutions"]]


def write_arrow(folder: Path, groups: Groups) -> None:
    """Write groups with ``RoundFile``."""
    file = RoundFile(folder)
    for index, group in enumerate(groups):
        file.add_solutions({index: (PROBLEM, group)})  # pyright: ignore[reportArgumentType]


def read_arrow(folder: Path, size: int) -> list[Solution]:
    """Read groups with ``RoundFile``."""
    return [s for _, group in RoundFile(folder).solutions(size).values() for s in group]


Write, Read = Callable[[Path, Groups], None], Callable[[Path, int], Sequence[Any]]
STORES: dict[str, tuple[Write, Read]] = {"json": (write_json, read_json), "arrow": (write_arrow, read_arrow)}


def held_bytes(read: Read, folder: Path, size: int) -> tuple[int, int]:
    """Return the bytes that the solutions hold after reading, and those of their texts among them."""
    gc.collect()
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    solutions = read(folder, size)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - arrow
    tracemalloc.stop()
    return held, sum(sys.getsizeof(s.text) for s in solutions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solutions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8000, help="of each solution")
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    numbers = made_solutions(args.solutions, args.tokens)
    arrays = [Solution(*(getattr(s, name) for name in NumberSolution.__slots__)) for s in numbers]
    starts = range(0, args.solutions, args.group_size)
    with tempfile.TemporaryDirectory() as folder:  # warm-up: libraries initialise
        write_arrow(Path(folder), [(arrays[0],)])
        read_arrow(Path(folder), 1)
    total = args.solutions * args.tokens
    rates: dict[tuple[str, str], list[float]] = {(name, what): [] for name in STORES for what in ("write", "read")}
    disk, held = {}, {}
    for repeat in range(args.repeats):
        for name in sorted(STORES, reverse=bool(repeat % 2)):
            write, read = STORES[name]
            given = numbers if name == "json" else arrays
            groups: Groups = [
                tuple(_with_sample(s, k) for k, s in enumerate(given[i : i + args.group_size])) for i in starts
            ]
            with tempfile.TemporaryDirectory() as folder:
                started = time.process_time()
                write(Path(folder), groups)
                written = time.process_time()
                read(Path(folder), args.group_size)
                rates[name, "write"].append(total / (written - started) / 1e6)
                rates[name, "read"].append(total / (time.process_time() - written) / 1e6)
                if not repeat:
                    disk[name] = sum(path.stat().st_size for path in Path(folder).iterdir()) / total
                    held[name] = [size / total for size in held_bytes(read, Path(folder), args.group_size)]
    print(f"{args.solutions} solutions of {args.tokens} tokens in groups of {args.group_size}, {args.repeats} repeats")
    print("| store | write Mtoken/s | read Mtoken/s | bytes a token on disk | in memory | of which text |")
    print("|---|---|---|---|---|---|")
    for name in STORES:
        write, read = (_spread(rates[name, what]) for what in ("write", "read"))
        print(f"| {name} | {write} | {read} | {disk[name]:.1f} | {held[name][0]:.1f} | {held[name][1]:.1f} |")


def _with_sample(solution: Any, sample: int) -> Any:
    fields = {name: getattr(solution, name) for name in NumberSolution.__slots__}
    return type(solution)(**fields | {"sample": sample})


def _spread(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"


if __name__ == "__main__":
    main()
