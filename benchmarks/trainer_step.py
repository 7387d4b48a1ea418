"""Optimizer steps beside TRL's on one batch, in turn: time, peak memory, share of the machine's own matrix product.

    python -m benchmarks.trainer_step                                   # about two minutes on an idle machine, one thread
    python -m benchmarks.trainer_step --threads 2 --rounds 5 --out benchmarks/results/trainer_step.md

The batch is 40 solutions, five groups of eight with one prompt each, of log-normal lengths up to 480 tokens; the policy a Qwen2
of 3.2 million float32 parameters with a vocabulary of 4,096 (``benchmarks.trainers`` says what both trainers do). Each variant
has a process of its own, and takes its steps while all others wait: a round is one step of each, then a float32 product.
Times are medians over the rounds after a first, uncounted one, and ratios are of steps in the same round. Peak memory is the
process's largest resident set, libraries included; what was resident before the first step is beside it. The share is of the
arithmetic that the solutions need, each with its own prompt, without padding and recomputation; what shares a prompt does less.
The last line compares the first variant with TRL.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_check.models import Architecture, Mix, solution_lengths, step_batch
from benchmarks.memory import resident_bytes
from benchmarks.reports import add_out, has_bf16, opening, publish, table
from benchmarks.trainers import OurSettings, Steps, TRLSettings, run_ours, run_trl
from lit_tpgrpo.records import TrainBatch

ARCHITECTURE = Architecture(256, 448, 4, 4, 2, 4096, max_position_embeddings=1024)
GROUP_SIZE = 8
BUDGET = 1024
TRL = "TRL"
VARIANTS: dict[str, OurSettings | TRLSettings] = {
    "ours": OurSettings(BUDGET),
    "ours, packed": OurSettings(BUDGET, "packed"),
    "ours, masked": OurSettings(BUDGET, "masked"),
    "ours, bf16-mixed": OurSettings(BUDGET, bf16=True),
    "ours, budget 4096": OurSettings(4 * BUDGET),
    TRL: TRLSettings(generations=GROUP_SIZE),
    "TRL, no checkpointing": TRLSettings(generations=GROUP_SIZE, checkpointing=False),
}
COLUMNS = (
    *("completion tokens/s", "s a step", "spread", "peak GB", "GB before steps", "share of the product"),
    *("tokens/s to TRL", "spread", "peak to TRL", "first loss"),
)
DEFAULT = ("ours", "ours, packed", TRL)


def batch_of(count: int = 40, prompt: int = 32) -> TrainBatch:
    """Build the step's batch, the same in every process."""
    return step_batch(ARCHITECTURE, Mix(prompt, tuple(solution_lengths(count, 48, 480, 200))), group_size=GROUP_SIZE)


# ---- a variant's process ----


def work(variant: str, connection: Connection, steps: int, threads: int, batch: TrainBatch) -> None:
    """Take steps, each when told to; send (seconds, peak bytes) after each, and the first loss at the end."""
    torch.set_num_threads(threads)
    settings = VARIANTS[variant]
    started = 0.0

    def before() -> None:
        nonlocal started
        connection.send(resident_bytes("VmRSS"))
        connection.recv()
        started = time.perf_counter()

    def after() -> None:
        connection.send((time.perf_counter() - started, resident_bytes("VmHWM")))

    with tempfile.TemporaryDirectory() as scratch:
        on = (Steps(steps, before, after), "cpu", Path(scratch))
        if isinstance(settings, OurSettings):
            loss = run_ours(ARCHITECTURE, batch, settings, *on)
        else:
            loss = run_trl(ARCHITECTURE, batch, settings, *on)
    connection.send(loss)


# ---- the rounds ----


@dataclass
class Measured:
    """A variant's process and what it measured; ``seconds`` are without the first step's."""

    process: Any
    connection: Connection
    seconds: list[float] = field(default_factory=list)
    before: int = 0
    peak: int = 0
    loss: float = float("nan")

    def step(self, counted: bool) -> None:
        """Let it take one step."""
        resident = self.connection.recv()
        self.before = self.before or resident
        self.connection.send("go")
        seconds, self.peak = self.connection.recv()
        self.seconds += [seconds] if counted else []


def measure(
    variants: Sequence[str], rounds: int, threads: int, batch: TrainBatch
) -> tuple[dict[str, Measured], list[float]]:
    """Return what each variant measured, and the machine's GFLOP/s in each round."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    context = mp.get_context("spawn")
    found: dict[str, Measured] = {}
    rates = []
    try:
        for variant in variants:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(variant, theirs, 1 + rounds, threads, batch), daemon=True)
            process.start()
            theirs.close()  # else the end of the process would not be noticed
            found[variant] = Measured(process, ours)
            found[variant].step(counted=False)  # before the next one is built beside it
        for _ in range(rounds):
            for measured in found.values():
                measured.step(counted=True)
            rates.append(matrix_product_rate())
        for measured in found.values():
            measured.loss = measured.connection.recv()
            measured.process.join()
    finally:
        for measured in found.values():
            measured.process.kill()
    return found, rates


def matrix_product_rate(n: int = 1536, repeats: int = 3) -> float:
    """Measure a square float32 product of random data, the best of some, in FLOP/s."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    out, best = torch.empty(n, n), float("inf")
    for _ in range(1 + repeats):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


# ---- the report ----


def report(found: dict[str, Measured], rates: Sequence[float], batch: TrainBatch) -> list[str]:
    """Return what was measured, the table and, if TRL ran, the line of ratios."""
    lengths = [(len(s.prompt_ids), len(s.completion_ids)) for s in batch.sequences]
    tokens, flops = sum(c for _, c in lengths), ARCHITECTURE.training_flops(lengths)
    lines = [
        f"- matrix product {median(rates) / 1e9:.1f} GFLOP/s ({min(rates) / 1e9:.1f} to {max(rates) / 1e9:.1f})",
        f"- {len(batch.sequences)} solutions, {tokens} completion tokens, {flops / 1e9:.0f} GFLOP a step; {len(rates)} rounds",
    ]
    rows = []
    trl = found.get(TRL)
    for variant, one in found.items():
        seconds = median(one.seconds)
        ratios = [] if trl is None else sorted(b / a for a, b in zip(one.seconds, trl.seconds, strict=True))
        share = median(flops / s / rate for s, rate in zip(one.seconds, rates, strict=True))
        cells = [
            *(
                variant,
                f"{tokens / seconds:.0f}",
                f"{seconds:.2f}",
                f"{min(one.seconds):.2f} to {max(one.seconds):.2f}",
            ),
            *(f"{one.peak / 1e9:.2f}", f"{one.before / 1e9:.2f}", f"{share:.0%}"),
            *((f"{median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}") if ratios else ("", "")),
            *("" if trl is None else f"{one.peak / trl.peak:.2f}", f"{one.loss:.4f}"),
        ]
        rows.append(cells)
    lines += table(("", *COLUMNS), rows)
    if trl is not None:
        first = next(iter(found.values()))
        ratio = median(b / a for a, b in zip(first.seconds, trl.seconds, strict=True))
        lines += ["", f"tokens/s ratio to TRL: {ratio:.2f}  peak memory ratio: {first.peak / trl.peak:.2f}"]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3, help="counted steps of each variant (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default: %(default)s)")
    parser.add_argument("--solutions", type=int, default=40, help="a multiple of 8 (default: %(default)s)")
    add_out(parser)
    args = parser.parse_args(arguments)
    if args.solutions < 8 or args.solutions % 8:
        parser.error(
            f"--solutions must be a multiple of 8, the size of TRL's batches and of a group; got {args.solutions}"
        )
    args.variants = args.variants or [*DEFAULT[:1], *(("ours, bf16-mixed",) if has_bf16() else ()), *DEFAULT[1:]]
    torch.set_num_threads(args.threads)
    lines = opening("Trainer step", "trainer_step", arguments, args, threads=args.threads)
    batch = batch_of(args.solutions)
    lines += report(*measure(args.variants, args.rounds, args.threads, batch), batch)
    publish(lines, args.out)


if __name__ == "__main__":
    main()
