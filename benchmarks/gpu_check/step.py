"""Parts that time optimizer steps of a random-weight policy: this package's and TRL's on the same batch, and compiled layers.

Both take 40 solutions with the same tokens, old log-probs and advantages, the same architecture, float32 weights with bfloat16
autocast, fused AdamW, a gradient norm limit of 1, the PPO-clip loss averaged over the step's tokens without a KL term, and log
entropies.

- *Ours*: ``TPGRPOModule`` in a Lightning trainer, as in training; micro-batches under a token budget.
- *TRL*: unchanged ``GRPOTrainer.train``, except that the recorded batch replaces generation. It pads all completions to the
  longest of the step and trains on ``per_device_train_batch_size`` of them at a time (8, its default, halved until the batch
  fits into memory), with its fused log-prob head and, by default, gradient checkpointing.

The time of a step is from the first forward pass to the updated weights, including the device's work. Tokens are completion
tokens. Both report the loss of the first step: equal losses show that it was the same step.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from statistics import median
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

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
from benchmarks.gpu_check.training import accelerator
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import TrainBatch

TRL_BATCH = 8
GENERATIONS = 4
LEARNING_RATE = 1e-6
TIMED_STEPS = 2


def adamw(parameters: Iterable[torch.nn.Parameter], device: str) -> torch.optim.Optimizer:
    """Build the optimizer of both trainers."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=device == "cuda")


def trainer_step(bench: Bench) -> None:
    """Time steps of this package with and without gradient checkpointing, TRL's, and a matrix product for comparison."""
    arch, solutions = architecture(bench), mix(bench)
    batch = step_batch(arch, solutions)
    gemm = matmul_tflops(bench, torch.bfloat16)
    bench.row("bf16 matrix product", **{"TFLOP/s": round(gemm, 2), "data sheet": peak_tflops(bench)})
    bench.free()
    budget = 128 if bench.tiny else 16384
    report = _Report(bench, arch, batch, gemm)
    for label, checkpointing, tokens in (
        ("ours, gradient checkpointing", True, budget),
        ("ours", False, budget // 2),
    ):
        with bench.attempt(label):
            report.add(label, *our_steps(bench, arch, batch, checkpointing, tokens), tokens_per_microbatch=tokens)
    with bench.attempt("TRL"):
        _add_trl(report, bench, arch, batch)
    report.ratio()


def _add_trl(report: _Report, bench: Bench, arch: Architecture, batch: TrainBatch) -> None:
    """Time TRL at the largest batch size that fits into memory."""
    size = TRL_BATCH
    while size >= 1:
        try:
            steps = trl_steps(bench, arch, batch, size)
        except torch.cuda.OutOfMemoryError:
            bench.row(f"TRL, batches of {size}", note="out of memory")
        else:
            report.add(f"TRL, batches of {size}", *steps, per_device_batch=size)
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


# ---- ours ----


class _StepTimes(L.Callback):
    """Wall times of a trainer's steps, including the device's work."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.times: list[float] = []
        self.losses: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.bench.sync()
        if len(self.times) == 1:  # memory that the first step allocates stays allocated in all later steps
            self.bench.reset_peak()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.bench.sync()
        self.times.append(time.perf_counter() - self._start)
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def our_steps(
    bench: Bench, arch: Architecture, batch: TrainBatch, checkpointing: bool, tokens_per_microbatch: int
) -> tuple[list[float], float]:
    """Run this package's steps; return the seconds of each timed step, and the loss of the first step."""
    module = TPGRPOModule(
        arch.write(bench.scratch / "model"),
        optimizer=lambda parameters: adamw(parameters, bench.device),
        tokens_per_microbatch=tokens_per_microbatch,
        gradient_checkpointing=checkpointing,
        random_init=True,
        dtype="float32",
    )
    times = _StepTimes(bench)
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        accelerator=accelerator(bench),
        devices=1,
        precision="bf16-mixed" if bench.device == "cuda" else "32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[times],
        default_root_dir=bench.scratch,
    )
    trainer.fit(module, DataLoader([batch] * (1 + TIMED_STEPS), batch_size=None))  # pyright: ignore[reportArgumentType]
    return times.times[1:], times.losses[0]


# ---- TRL's ----


def trl_steps(bench: Bench, arch: Architecture, batch: TrainBatch, size: int) -> tuple[list[float], float]:
    """Run TRL's steps on ``size`` sequences at a time; return the same as ``our_steps``."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from lit_tpgrpo.pretrained import load_tokenizer

    count = len(batch.sequences)
    recorded = trl_batch(batch, bench.device)

    class RecordedGRPOTrainer(GRPOTrainer):
        """TRL's trainer on a recorded batch instead of generating one."""

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
            return dict(recorded)

    class Times(TrainerCallback):
        """Wall times, each stored immediately: the part may reach its time limit before the last step."""

        def __init__(self) -> None:
            self.times: list[float] = []
            self._start = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            bench.sync()
            if len(self.times) == 1:
                bench.reset_peak()
            self._start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            bench.sync()
            self.times.append(time.perf_counter() - self._start)
            label = f"step {len(self.times)} of TRL, batches of {size}"
            bench.row(label, **{"s a step": round(self.times[-1], 3)})

    model = random_model(arch, bench.device, torch.float32)
    times = Times()
    config = GRPOConfig(
        output_dir=str(bench.scratch / "trl"),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=count // size,
        num_generations=GENERATIONS,
        max_steps=1 + TIMED_STEPS,
        max_completion_length=max(len(s.completion_ids) for s in batch.sequences),
        temperature=batch.temperature,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        bf16=bench.device == "cuda",
        use_cpu=bench.device == "cpu",
        loss_type="dapo",
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = RecordedGRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["0"] * count}),
        processing_class=load_tokenizer("embedded:tiny-qwen2"),
        optimizers=(adamw(model.parameters(), bench.device), None),
        callbacks=[times],
    )
    trainer.train()
    loss = next(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    return times.times[1:], loss


def trl_batch(batch: TrainBatch, device: str) -> dict[str, torch.Tensor]:
    """Convert a batch to TRL's format: prompts padded on the left, completions on the right, to the longest."""
    prompts, completions = ([getattr(s, name) for s in batch.sequences] for name in ("prompt_ids", "completion_ids"))
    old = [s.old_logprobs for s in batch.sequences]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        name: tensor.to(device)
        for name, tensor in {
            "prompt_ids": pad(prompts, batch_first=True, padding_side="left"),
            "prompt_mask": pad([torch.ones_like(p) for p in prompts], batch_first=True, padding_side="left"),
            "completion_ids": pad(completions, batch_first=True),
            "completion_mask": pad([torch.ones_like(c) for c in completions], batch_first=True),
            "advantages": torch.stack([s.advantages[0] for s in batch.sequences]),
            "old_per_token_logps": pad(old, batch_first=True),
            "num_items_in_batch": torch.tensor(float(sum(map(len, completions)))),
        }.items()
    }


# ---- compiled layers ----


def compiled_layers(bench: Bench) -> None:
    """Time forward and backward of one micro-batch, first with uncompiled decoder layers, then with each layer compiled."""
    from lit_tpgrpo.training.microbatches import collate
    from lit_tpgrpo.training.policy import PolicyModel
    from lit_tpgrpo.training.sharding import decoder_layers

    arch = architecture(bench)
    rows, width = (2, 24) if bench.tiny else (4, 2048)
    batch = step_batch(arch, mix(bench))
    sequences = [s.to(bench.device) for s in batch.sequences if len(s) >= width][:rows] or list(batch.sequences)[:rows]
    micro = collate([_cut(s, width) for s in sequences], pad_id=0)
    other = collate([_cut(s, width - width // 8) for s in sequences], pad_id=0)
    policy = PolicyModel(random_model(arch, bench.device, torch.float32))
    policy.train()

    def both(which=micro) -> None:
        policy.zero_grad(set_to_none=True)
        with torch.autocast(bench.device, torch.bfloat16, enabled=bench.device == "cuda"):
            logprobs, _ = policy(which, 1.0)
        logprobs.mean().backward()

    tokens = micro.input_ids.numel()

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
    third = _once(bench, lambda: both(collate([_cut(s, width // 2) for s in sequences], pad_id=0)))
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
