"""Measure how fast rounds are stored and read, and their bytes a token: python -m benchmarks.store

    python -m benchmarks.store                                   # 64 solutions of 8,000 tokens, in groups of 8
    python -m benchmarks.store --solutions 512 --tokens 200      # short ones, as of the quickstart
    python -m benchmarks.store --out benchmarks/results/store.md

``json`` is the store of before, which kept each token as Python numbers and wrote them as JSON: its writing and reading are
repeated here. Both stores write and read the same solutions, in alternation, on one thread; time is processor time of this
process. Each is measured with three texts: of letters that Python keeps in one byte each (Latin-1), and the same with one root
sign or one emoji in place of the first letter of each solution, for which Python keeps the whole text in two or four bytes a
character. Printed are the median, lowest and highest million tokens a second over the repeats; bytes a token on disk, of all
files of the round (text, prompt and verdicts included) and of its verdicts; and in memory after reading (the solutions' texts
included, and named apart). Verdicts are those of the steps that ``segment_steps`` cuts, written without being timed.

The solutions are made up: token ids and their strings by Zipf's law from a vocabulary of 50,000 strings of 1 to 7 letters,
log-probs of which half are within 0.01 of 0. Disks are not measured: the files lie in the page cache.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from benchmarks.reports import add_out, opening, publish, spread, table
from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.records import Outcome, Problem, Solution, StepLabel, StopReason, Verdict
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.text.steps import segment_steps

PROBLEM = Problem("made/1", "What is the sum of all two-digit primes?", "1043", "made")
VOCABULARY, LONGEST = 50_000, 7
FIRST_LETTERS = {"Latin-1": "", "one root sign": "\N{SQUARE ROOT}", "one emoji": "\N{GRINNING FACE}"}
"""Texts, by what the first letter of each is replaced with."""


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


# ---- what is measured ----


@dataclass
class StoreRates:
    """A store with one kind of text: million tokens a second of each repeat, and bytes a token."""

    write: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    disk: float = 0.0
    verdicts: float = 0.0
    memory: float = 0.0
    text: float = 0.0


def with_first_letter(solution: Any, letter: str) -> Any:
    """Return the solution with another first letter; with "" itself."""
    return replace(solution, text=letter + solution.text[len(letter) :])


def as_arrays(solution: NumberSolution) -> Solution:
    return Solution(*(getattr(solution, name) for name in NumberSolution.__slots__))


def groups_of(solutions: Sequence[Any], size: int) -> Groups:
    """Return groups of ``size``, their samples numbered from 0."""
    starts = range(0, len(solutions), size)
    return [tuple(replace(s, sample=k) for k, s in enumerate(solutions[i : i + size])) for i in starts]


def write_verdicts(folder: Path, groups: Groups) -> None:
    """Store a verdict on each solution."""
    file = RoundFile(folder)
    for index, group in enumerate(groups):
        for s in group:
            solution = s if isinstance(s, Solution) else as_arrays(s)
            steps = segment_steps(solution.text, solution.token_starts, len(solution.completion_ids))
            verdict = Verdict(steps, (StepLabel.CORRECT,) * len(steps))
            file.add_verdict(index, PROBLEM, solution, Outcome.CORRECT, PROBLEM.answer, verdict)


def measure_once(store: str, groups: Groups, size: int, measured: StoreRates) -> None:
    """Write and read groups once; the first time, count their bytes too."""
    write, read = STORES[store]
    total = sum(len(s.completion_ids) for group in groups for s in group)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.process_time()
        write(folder, groups)
        written = time.process_time()
        read(folder, size)
        measured.write.append(total / (written - started) / 1e6)
        measured.read.append(total / (time.process_time() - written) / 1e6)
        if len(measured.read) == 1:
            measured.memory, measured.text = (n / total for n in held_bytes(read, folder, size))
            write_verdicts(folder, groups)
            sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
            measured.disk = sum(sizes.values()) / total
            measured.verdicts = sum(n for name, n in sizes.items() if name.startswith("verdicts.")) / total


def measure(args: argparse.Namespace) -> dict[tuple[str, str], StoreRates]:
    """Measure each store with each text, in alternation."""
    numbers = made_solutions(args.solutions, args.tokens)
    with tempfile.TemporaryDirectory() as folder:  # warm-up: libraries initialise
        write_arrow(Path(folder), [(as_arrays(numbers[0]),)])
        read_arrow(Path(folder), 1)
    found = {(store, text): StoreRates() for text in FIRST_LETTERS for store in STORES}
    for repeat in range(args.repeats):
        for store, text in list(found)[:: -1 if repeat % 2 else 1]:
            lettered = [with_first_letter(s, FIRST_LETTERS[text]) for s in numbers]
            given = lettered if store == "json" else [as_arrays(s) for s in lettered]
            measure_once(store, groups_of(given, args.group_size), args.group_size, found[store, text])
    return found


COLUMNS = (
    *("store", "text", "write Mtoken/s", "read Mtoken/s", "bytes a token on disk", "of which verdicts"),
    *("bytes a token in memory", "of which text"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solutions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8000, help="of each solution")
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    add_out(parser)
    args = parser.parse_args(arguments)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    lines = opening("Stored rounds", "store", arguments, args, threads=1)
    rows = [
        (*names, spread(m.write), spread(m.read), *(f"{n:.1f}" for n in (m.disk, m.verdicts, m.memory, m.text)))
        for names, m in measure(args).items()
    ]
    publish([*lines, *table(COLUMNS, rows)], args.out)


if __name__ == "__main__":
    main()
