"""The part that overlaps sampling, judging and training: the engine in a process of its own, on the same device."""

from __future__ import annotations

import statistics

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.training import PartFailed
from lit_tpgrpo.datamodules.schedules import ScheduleName

_TINY = ("--rounds=3", "--problems=2", "--group_size=2", "--steps=2", "--tokens=16", "--batch_size=2", "--latency=0.1")
_FULL = ("--batch_size=64", "--latency=2")  # a judge that takes about as long as a batch is sampled on a GPU


def schedules(bench: Bench) -> None:
    """Train the embedded policy with every schedule, as ``benchmarks.rounds_ahead`` does; the period of each is a row.

    With all of them engine and trainer have to agree: the trainer scores what it trains on.
    """
    from benchmarks.rounds_ahead import NOT_COUNTED, RoundClock, measure, settings

    args = settings([*(_TINY if bench.tiny else _FULL), f"--device={bench.device}"])

    def row(schedule: ScheduleName, clock: RoundClock) -> None:
        gap = max(metrics["mismatch/logprob_max"] for metrics in clock.metrics)
        unscored = sum(metrics["mismatch/unscored"] for metrics in clock.metrics)
        bench.row(
            schedule,
            **{
                "period s": round(statistics.median(clock.periods()), 2),
                "training s": round(statistics.median(clock.training[NOT_COUNTED:]), 2),
                "max log-prob gap": round(gap, 6),
                "unscored": unscored,
            },
        )
        if unscored or not gap < 1e-2:  # in float32 and with the same weights; NaN too
            raise PartFailed(
                f"{schedule}: the trainer's log-probs are up to {gap} off the engine's, {unscored} are missing"
            )

    measured = measure(args, row)
    for schedule in measured.periods:
        bench.row(f"{schedule}, ratios", **{name: round(r, 2) for name, r in measured.ratios(schedule).items()})
