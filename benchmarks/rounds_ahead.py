"""Measure what it saves to train while rounds are made, this one or the next: python -m benchmarks.rounds_ahead

The embedded policy is trained in this process and sampled by HFEngine in another, one thread each; a judge that takes
``--latency`` seconds for each reply answers over HTTP (that of ``benchmarks.schedules``). Each schedule trains ``--rounds``
rounds, in alternation; the first two of a run do not count, since nothing overlaps with the first. Printed are medians and
extremes of the seconds from the end of one round's making to that of the next, which is a whole period of sampling, judging and
training, and of the stages of serial rounds. Last lines: for each schedule a period over the longest single stage of a serial
round (sampling, judging or training), which would be reached if they cost one another nothing; and over the longer of training
and of making a round whose judging is streamed (sampling, judging and scoring), which leaves what streaming does not hide.

What the judge says is made up, and the learning rate is so small that lengths stay what they are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks.process_engine import ProcessEngine
from benchmarks.reports import add_out, opening, publish, spread, table
from benchmarks.schedules import MODEL, slow_judge
from lit_tpgrpo.callbacks import RoundCallback
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.schedules import SCHEDULES, ScheduleName
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.judges.generative.judge import GenerativeJudge
from lit_tpgrpo.module import TPGRPOModule

NOT_COUNTED = 2


class RoundClock(RoundCallback):
    """When rounds were made, and how long they were sampled, judged and trained on."""

    def __init__(self) -> None:
        self.made: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self._trained: dict[int, float] = {}  # seconds by round

    def on_round_end(self, trainer, pl_module, round_) -> None:
        self.made.append(time.perf_counter())
        self.metrics.append(dict(round_.metrics))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        spent = time.perf_counter() - self._started
        self._trained[batch.round_index] = self._trained.get(batch.round_index, 0.0) + spent

    @property
    def training(self) -> list[float]:
        return [seconds for _, seconds in sorted(self._trained.items())]

    def periods(self) -> list[float]:
        return [b - a for a, b in zip(self.made[NOT_COUNTED - 1 :], self.made[NOT_COUNTED:], strict=False)]

    def stage(self, name: str) -> list[float]:
        return [metrics[name] for metrics in self.metrics[NOT_COUNTED:]]


def train(
    schedule: ScheduleName, args: argparse.Namespace, engine: ProcessEngine, judge: GenerativeJudge
) -> RoundClock:
    """Train the rounds with one schedule; return what the clock saw."""
    clock = RoundClock()
    L.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        data: Any = MathRolloutDataModule(
            train=ArithmeticProblems(level=args.level, n=args.problems * args.rounds),
            engine=engine,
            judge=judge,
            group_size=args.group_size,
            problems_per_step=args.problems // args.steps,
            steps_per_round=args.steps,
            keep="all",
            sampling=SamplingParams(args.tokens),
            prompt_template="{problem}",
            correction="token_truncate",  # scored with any schedule
            store_dir=Path(folder),
            show_prompt=False,
            progress=False,
            schedule=schedule,
        )
        trainer = L.Trainer(
            accelerator=args.device,
            devices=1,
            max_steps=args.rounds * args.steps,
            callbacks=[clock],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(TPGRPOModule(MODEL, optimizer=lambda p: torch.optim.SGD(p, lr=1e-9)), datamodule=data)
    return clock


@dataclass(frozen=True)
class RoundPeriods:
    """Seconds of the rounds that count: periods by schedule, and what else was looked at by its name."""

    periods: dict[ScheduleName, list[float]] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)

    def add(self, schedule: ScheduleName, clock: RoundClock) -> None:
        """Add a run with a schedule."""
        self.periods.setdefault(schedule, []).extend(clock.periods())
        for name, values in STAGES[schedule](clock).items():
            self.stages.setdefault(name, []).extend(values)

    def ratios(self, schedule: ScheduleName) -> dict[str, float]:
        """Return a period with the schedule over what it could be, by name (medians)."""
        period = statistics.median(self.periods[schedule])
        return {
            f"to {name}": period / max(statistics.median(self.stages[stage]) for stage in stages)
            for name, stages in BOUNDS.items()
        }


BOUNDS = {
    "the longest stage": ("sampling", "verifying and judging", "training"),
    "the longer of training and a streamed round": ("training", "making a round, streamed"),
}


def _stages_serial(clock: RoundClock) -> dict[str, list[float]]:
    return {
        "sampling": clock.stage("rollout/seconds"),
        "verifying and judging": clock.stage("judge/seconds"),
        "training": clock.training[NOT_COUNTED:],
    }


def _stages_streamed(clock: RoundClock) -> dict[str, list[float]]:
    made = zip(clock.periods(), clock.training[NOT_COUNTED - 1 : -1], strict=True)
    return {"making a round, streamed": [period - training for period, training in made]}


def _stages_pipelined(clock: RoundClock) -> dict[str, list[float]]:
    return {"waiting in a round, pipelined": clock.stage("pipelined/wait_seconds")}


def _stages_ahead(clock: RoundClock) -> dict[str, list[float]]:
    return {
        "training, ahead": clock.training[NOT_COUNTED:],
        "waiting for a round, ahead": clock.stage("ahead/wait_seconds"),
    }


STAGES: dict[ScheduleName, Callable[[RoundClock], dict[str, list[float]]]] = {
    "serial": _stages_serial,
    "streamed": _stages_streamed,
    "pipelined": _stages_pipelined,
    "ahead": _stages_ahead,
}


def settings(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the settings of a measurement, by default those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default="3", help="of the embedded problems")
    parser.add_argument("--problems", type=int, default=16, help="of a round")
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a round")
    parser.add_argument("--rounds", type=int, default=5, help=f"of a run; the first {NOT_COUNTED} do not count")
    parser.add_argument("--tokens", type=int, default=288, help="most tokens of a solution")
    parser.add_argument("--batch_size", type=int, default=32, help="solutions that are sampled at once")
    parser.add_argument("--latency", type=float, default=1.0, help="seconds of each reply of the judge")
    parser.add_argument("--concurrency", type=int, default=32, help="requests to the judge at a time")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of trainer and engine")
    parser.add_argument("--repeats", type=int, default=1)
    add_out(parser)
    return parser.parse_args(arguments)


def measure(
    args: argparse.Namespace, after_each: Callable[[ScheduleName, RoundClock], object] | None = None
) -> RoundPeriods:
    """Train with each schedule, one after another, ``args.repeats`` times, with one thread in this process."""
    torch.set_num_threads(1)
    measured = RoundPeriods()
    with slow_judge(args.latency, args.concurrency) as judge:
        engine = ProcessEngine(MODEL, args.batch_size, args.device)
        try:
            for _ in range(args.repeats):
                for schedule in SCHEDULES:
                    clock = train(schedule, args, engine, judge)
                    measured.add(schedule, clock)
                    if after_each is not None:
                        after_each(schedule, clock)
        finally:
            engine.terminate()
    return measured


def main(arguments: Sequence[str] | None = None) -> None:
    args = settings(arguments)
    lines = opening("Rounds while the trainer works", "rounds_ahead", arguments, args, threads=1, device=args.device)
    publish([*lines, *report(measure(args))], args.out)


def report(measured: RoundPeriods) -> list[str]:
    """Return the table, and for each schedule a line with its ratios."""
    seconds = {**{f"{s} period": values for s, values in measured.periods.items()}, **measured.stages}
    lines = table(("", "seconds"), [(name, spread(values)) for name, values in seconds.items()])
    for schedule in measured.periods:
        ratios = "  ".join(f"{name}: {ratio:.2f}" for name, ratio in measured.ratios(schedule).items())
        lines += ["", f"period with {schedule} {ratios}"]
    return lines


if __name__ == "__main__":
    main()
