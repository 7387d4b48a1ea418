"""Parts that time optimizer steps of a random-weight policy: this package's and TRL's on the same batch, and compiled layers.

Both trainers are those of ``benchmarks.trainers``, on 40 solutions, ten groups of four, in bfloat16 autocast on a GPU. TRL's
batch is halved from its default of 8 until it fits into memory.

The time of a step is from the first forward pass to the updated weights, including the device's work. Tokens are completion
tokens. Both report the loss of the first step: equal losses show that it was the same step.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_check.bench import Bench, Value
from benchmarks.gpu_check.models import (
    Architecture,
    architecture,
    matmul_tflops,
    mix,
    peak_tflops,
    random_model,
    step_batch,
)
from benchmarks.trainers import OurSettings, Steps, TRLSettings, run_ours, run_trl
from lit_tpgrpo.records import TrainBatch

TRL_BATCH = 8
GENERATIONS = 4
TIMED_STEPS = 2


def trainer_step(bench: Bench) -> None:
    """Time steps of this package with gradient checkpointing, padded, packed and masked, TRL's, and a matrix product."""
    arch = architecture(bench)
    batch = step_batch(arch, mix(bench), group_size=GENERATIONS)
    gemm = matmul_tflops(bench, torch.bfloat16)
    bench.row("bf16 matrix product", **{"TFLOP/s": round(gemm, 2), "data sheet": peak_tflops(bench)})
    bench.free()
    budget = 128 if bench.tiny else 16384
    report = _Report(bench, arch, batch, gemm)
    mixed = bench.device == "cuda"
    for label, settings in {
        "ours, gradient checkpointing": OurSettings(budget, checkpointing=True, bf16=mixed),
        "ours": OurSettings(budget // 2, bf16=mixed),
        "ours, packed": OurSettings(budget // 2, "packed", bf16=mixed),
        "ours, masked": OurSettings(budget // 2, "masked", bf16=mixed),
    }.items():
        with bench.attempt(label):
            times = _Times(bench)
            loss = run_ours(arch, batch, settings, times.steps(), bench.device, bench.scratch)
            report.add(label, times.timed(), loss, tokens_per_microbatch=settings.tokens_per_microbatch)
    with bench.attempt("TRL"):
        _add_trl(report, bench, arch, batch)
    report.ratio()


def _add_trl(report: _Report, bench: Bench, arch: Architecture, batch: TrainBatch) -> None:
    """Time TRL at the largest batch size that fits into memory."""
    size = TRL_BATCH
    while size >= 1:
        label = f"TRL, batches of {size}"
        times = _Times(bench, label)
        settings = TRLSettings(size, GENERATIONS, bf16=bench.device == "cuda")
        try:
            loss = run_trl(arch, batch, settings, times.steps(), bench.device, bench.scratch)
        except torch.cuda.OutOfMemoryError:
            bench.row(label, note="out of memory")
        else:
            report.add(label, times.timed(), loss, per_device_batch=size)
            return
        # Free memory only here: while the error is handled, its traceback holds the model.
        size //= 2
        bench.free()


class _Report:
    """The rows of one comparison, and the ratios of this package's rows to TRL's."""

    def __init__(self, bench: Bench, arch: Architecture, batch: TrainBatch, gemm: float) -> None:
        self.bench, self.gemm = bench, gemm
        lengths = [(len(s.prompt_ids), len(s.completion_ids)) for s in batch.sequences]
        self.tokens = sum(c for _, c in lengths)
        self.flops = arch.training_flops(lengths)
        self.results: dict[str, tuple[float, float | None]] = {}

    def add(self, label: str, times: list[float], loss: float, **settings: Value) -> None:
        """Store the row of one trainer."""
        seconds, peak = median(times), self.bench.peak_gib()
        rate = self.flops / seconds / 1e12
        sheet = peak_tflops(self.bench)
        self.results[label] = (self.tokens / seconds, peak)
        values: dict[str, Value] = {
            "completion tokens/s": round(self.tokens / seconds),
            "s a step": round(seconds, 3),
            "spread": f"{min(times):.3f} to {max(times):.3f}",
            "peak GiB": peak,
            "MFU": None if sheet is None else f"{rate / sheet:.1%}",
            "share of the matrix product": f"{rate / self.gemm:.1%}",
            "first loss": float(f"{loss:.4g}"),
        }
        self.bench.row(label, **values, **settings)

    def ratio(self) -> None:
        """Store the ratio of each of this package's rows to TRL's, if TRL ran: tokens/s and peak memory."""
        trl = next((result for label, result in self.results.items() if label.startswith("TRL")), None)
        if trl is None:
            return
        trl_rate, trl_peak = trl
        for label, (rate, peak) in self.results.items():
            if label.startswith("ours"):
                memory = None if peak is None or trl_peak is None else round(peak / trl_peak, 2)
                self.bench.row(
                    f"ratio of {label} to TRL",
                    **{"ratio of tokens/s": round(rate / trl_rate, 2), "ratio of peak GiB": memory},
                )


class _Times:
    """Wall times of a trainer's steps, including the device's work; each is also a row, if rows have a label."""

    def __init__(self, bench: Bench, label: str | None = None) -> None:
        self.bench, self.label = bench, label
        self.times: list[float] = []
        self._start = 0.0

    def steps(self) -> Steps:
        return Steps(1 + TIMED_STEPS, self._before, self._after)

    def timed(self) -> list[float]:
        return self.times[1:]

    def _before(self) -> None:
        self.bench.sync()
        if len(self.times) == 1:  # memory that the first step allocates stays allocated in all later steps
            self.bench.reset_peak()
        self._start = time.perf_counter()

    def _after(self) -> None:
        self.bench.sync()
        self.times.append(time.perf_counter() - self._start)
        if self.label is not None:  # the part may reach its time limit before the last step
            label = f"step {len(self.times)} of {self.label}"
            self.bench.row(label, **{"s a step": round(self.times[-1], 3)})


# ---- compiled layers ----


def compiled_layers(bench: Bench) -> None:
    """Time forward and backward of one micro-batch, first with uncompiled decoder layers, then with each layer compiled."""
    from lit_tpgrpo.training.padding import Padded
    from lit_tpgrpo.training.policy import PolicyModel
    from lit_tpgrpo.training.sharding import decoder_layers

    arch = architecture(bench)
    rows, width = (2, 24) if bench.tiny else (4, 2048)
    batch = step_batch(arch, mix(bench))
    sequences = [s.to(bench.device) for s in batch.sequences if len(s) >= width][:rows] or list(batch.sequences)[:rows]
    micro = Padded(0).collate([_cut(s, width) for s in sequences])
    other = Padded(0).collate([_cut(s, width - width // 8) for s in sequences])
    policy = PolicyModel(random_model(arch, bench.device, torch.float32))
    policy.train()

    def both(which=micro) -> None:
        policy.zero_grad(set_to_none=True)
        with torch.autocast(bench.device, torch.bfloat16, enabled=bench.device == "cuda"):
            logprobs, _ = policy(which, 1.0)
        logprobs.mean().backward()

    tokens = micro.model_inputs["input_ids"].numel()

    def timed(label: str, **values: Value) -> None:
        bench.reset_peak()
        seconds = median(bench.seconds(both))
        bench.row(
            label,
            **{"tokens/s": round(tokens / seconds), "s": round(seconds, 4), "peak GiB": bench.peak_gib()},
            **values,
        )

    timed("as they are")
    # On a CPU, Inductor needs minutes and a C++ compiler, so a rehearsal only traces.
    for layer in decoder_layers(policy.causal_lm):
        layer.compile(backend="inductor" if bench.device == "cuda" else "aot_eager")
    first = _once(bench, both)
    timed("compiled", **{"compiling s": round(first, 1)})
    if bench.tiny:
        return
    again = _once(bench, lambda: both(other))
    third = _once(bench, lambda: both(Padded(0).collate([_cut(s, width // 2) for s in sequences])))
    bench.row(
        "compiled, other lengths", **{"second length, first pass s": round(again, 2), "third length": round(third, 2)}
    )


def _once(bench: Bench, work: Any) -> float:
    start = time.perf_counter()
    work()
    bench.sync()
    return time.perf_counter() - start


def _cut(sequence, length: int):
    """Return the first ``length`` tokens of a sequence."""
    from dataclasses import replace

    kept = max(1, length - len(sequence.prompt_ids))
    return replace(
        sequence,
        completion_ids=sequence.completion_ids[:kept],
        old_logprobs=sequence.old_logprobs[:kept],
        advantages=sequence.advantages[:kept],
    )
