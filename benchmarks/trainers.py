"""Optimizer steps of this package's trainer and of TRL's on the same batch, for benchmarks that time them.

Both train the same architecture with random float32 weights on the same tokens, old log-probs and advantages, with AdamW, a
gradient norm limit of 1, the PPO-clip loss averaged over the step's tokens without a KL term, and log entropies.

- *Ours*: ``TPGRPOModule`` in a Lightning trainer, as in training; micro-batches under a token budget.
- *TRL*: unchanged ``GRPOTrainer.train``, except that the recorded batch replaces generation. It pads all completions to the
  longest of the step and trains on ``per_device_train_batch_size`` of them at a time, with its fused log-prob head and, by
  default, gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from benchmarks.gpu_check.models import Architecture, random_model
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import TrainBatch
from lit_tpgrpo.training.batching_choice import BatchingName

LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Steps:
    """What is done with each optimizer step.

    Args:
        count: steps to take on the same batch.
        before: called before a step's first forward pass.
        after: called when the weights are updated.
    """

    count: int
    before: Callable[[], None]
    after: Callable[[], None]


def adamw(parameters: Iterable[torch.nn.Parameter], device: str) -> torch.optim.Optimizer:
    """Build the optimizer of both trainers."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=device == "cuda")


# ---- ours ----


@dataclass(frozen=True)
class OurSettings:
    """Settings of this package's trainer that change speed and memory."""

    tokens_per_microbatch: int
    batching: BatchingName = "auto"
    checkpointing: bool = False
    bf16: bool = False


class _Hooks(L.Callback):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.losses: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.steps.before()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.steps.after()
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def run_ours(
    arch: Architecture, batch: TrainBatch, settings: OurSettings, steps: Steps, device: str, scratch: Path
) -> float:
    """Take this package's steps; return the loss of the first."""
    hooks = _Hooks(steps)
    module = TPGRPOModule(
        arch.write(scratch / "model"),
        optimizer=lambda parameters: adamw(parameters, device),
        tokens_per_microbatch=settings.tokens_per_microbatch,
        batching=settings.batching,
        gradient_checkpointing=settings.checkpointing,
        random_init=True,
        dtype="float32",
    )
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if settings.bf16 else "32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[hooks],
        default_root_dir=scratch,
    )
    trainer.fit(module, DataLoader([batch] * steps.count, batch_size=None))  # pyright: ignore[reportArgumentType]
    return hooks.losses[0]


# ---- TRL's ----


@dataclass(frozen=True)
class TRLSettings:
    """Settings of TRL's trainer that change speed and memory: by default its own.

    Args:
        batch: sequences of one forward pass.
        generations: solutions of a prompt, which are neighbours in the batch.
        checkpointing: whether activations are computed again in the backward pass.
        bf16: whether products are in bfloat16.
    """

    batch: int = 8
    generations: int = 8
    checkpointing: bool = True
    bf16: bool = False


def run_trl(
    arch: Architecture, batch: TrainBatch, settings: TRLSettings, steps: Steps, device: str, scratch: Path
) -> float:
    """Take TRL's steps; return the loss of the first."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from lit_tpgrpo.pretrained import load_tokenizer

    count = len(batch.sequences)
    recorded = trl_batch(batch, device)

    class RecordedGRPOTrainer(GRPOTrainer):
        """TRL's trainer on a recorded batch instead of generating one."""

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
            return dict(recorded)

    class Hooks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.before()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.after()

    model = random_model(arch, device, torch.float32)
    config = GRPOConfig(
        output_dir=str(scratch / "trl"),
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=count // settings.batch,
        num_generations=settings.generations,
        max_steps=steps.count,
        max_completion_length=max(len(s.completion_ids) for s in batch.sequences),
        temperature=batch.temperature,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=settings.checkpointing,
        bf16=settings.bf16,
        use_cpu=device == "cpu",
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
        optimizers=(adamw(model.parameters(), device), None),
        callbacks=[Hooks()],
    )
    trainer.train()
    return next(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


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
