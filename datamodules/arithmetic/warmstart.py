"""Train the tiny policy: learn a tokenizer, train on noisy self-correcting chains, evaluate, save.

    python -m lit_tpgrpo.datamodules.arithmetic.warmstart --out /tmp/tiny-qwen2

All data are generated from the training split, so held-out problems are unseen. Training begins with data without errors
(sheets of table entries, chains), followed by noisy chains: the model learns the tables, and makes errors as often as the
writer. The output folder contains ``warmstart.json``: the settings, the loss curve, and the accuracy per level.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2ForCausalLM

from lit_tpgrpo.datamodules.arithmetic.chains import NO_NOISE, NoiseRates
from lit_tpgrpo.datamodules.arithmetic.measure import Measurement, measure
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, TINY_LEVELS, make_problems
from lit_tpgrpo.datamodules.arithmetic.tiny import MAX_LENGTH, random_policy, tiny_config
from lit_tpgrpo.datamodules.arithmetic.tokenizer import build_tokenizer, corpus
from lit_tpgrpo.datamodules.arithmetic.training_data import IGNORED, Row, chain_rows, pad_rows, sheet_rows


@dataclass(frozen=True, slots=True)
class Phase:
    """Optimizer steps on one kind of batch: chains with this noise, of which ``sheets`` are replaced by sheets."""

    steps: int
    noise: NoiseRates
    sheets: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """Phases with one optimizer.

    The learning rate rises over ``warmup`` steps, is constant up to the share ``hold`` of the stage, and then falls linearly
    to 3% of its peak at the end.
    """

    phases: tuple[Phase, ...]
    lr: float
    warmup: int
    hold: float

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        end = 0
        for phase in self.phases:
            end += phase.steps
            if step < end:
                return phase
        raise ValueError(f"step {step} lies beyond the stage's {self.steps} steps")

    def rate(self, step: int) -> float:
        """Return the learning rate at a step, as a share of its peak."""
        falling = (self.steps - step) / (self.steps * (1 - self.hold))
        return min((step + 1) / self.warmup, 1.0, max(0.03, falling))


STAGES = (
    # Tables and copying are learnt faster from right entries, so errors come late; then many corrected errors, because
    # corrections are hard to learn; at the end the writer's default rates.
    Stage(
        phases=(
            Phase(150, NO_NOISE, sheets=8),
            Phase(200, NO_NOISE),
            Phase(550, NoiseRates(error=0.05, error_multiply=0.6, notice_now=0.7)),
            Phase(600, NoiseRates()),
        ),
        lr=0.01,
        warmup=30,
        hold=0.5,
    ),
)


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Settings of the script; the packaged model was trained with the defaults."""

    seed: int = 0
    stages: tuple[Stage, ...] = STAGES
    batch: int = 32
    micro_batch: int = 16
    """Rows per micro-batch. A batch is sorted by length before it is split, to reduce padding."""
    weight_decay: float = 0.01
    vocab_size: int = 512
    corpus: int = 3000
    sheet_equations: int = 24
    chain_mix: dict[str, float] = field(default_factory=lambda: {"1": 0.2, "2": 0.4, "3": 0.15, "4": 0.2, "5": 0.05})
    """Share of each level among the chains."""
    sheet_mix: dict[str, float] = field(default_factory=lambda: {"2": 0.6, "4": 0.4})
    """Share of each level among the sheets, one level for each modulus."""
    evaluation_problems: int = 128


def draw_batch(phase: Phase, settings: WarmStart, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> list[Row]:
    """Draw the rows of one optimizer step, sorted by length."""
    rows: list[Row] = []
    if phase.sheets:
        rows += sheet_rows(phase.sheets, settings.sheet_equations, settings.sheet_mix, tokenizer, rng)
    rows += chain_rows(settings.batch - phase.sheets, settings.chain_mix, phase.noise, tokenizer, rng)
    return sorted(rows, key=lambda row: len(row.ids))


class StageOptimizer:
    """Muon for the matrices of the layers and AdamW for all other parameters, with one schedule.

    With AdamW alone the model needs several times as many steps to learn which operation comes next.
    """

    def __init__(self, model: nn.Module, stage: Stage, weight_decay: float) -> None:
        matrices, rest = [], []
        for name, parameter in model.named_parameters():
            (matrices if ".layers." in name and parameter.ndim == 2 else rest).append(parameter)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, stage.lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, stage.lr, betas=(0.9, 0.98), weight_decay=weight_decay),
        ]
        self.schedules = [torch.optim.lr_scheduler.LambdaLR(o, stage.rate) for o in self.optimizers]

    def step(self) -> None:
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def train_stage(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    settings: WarmStart,
    number: int,
    stop: int | None = None,
) -> list[float]:
    """Train the model in place on stage ``number`` (up to step ``stop``); return the loss of each step, in nats per token."""
    stage = settings.stages[number]
    rng = random.Random(f"warmstart/{settings.seed}/{number}")
    steps = range(stage.steps if stop is None else stop)
    return fit_rows(
        model,
        cast(int, tokenizer.pad_token_id),
        StageOptimizer(model, stage, settings.weight_decay),
        (draw_batch(stage.phase_at(step), settings, tokenizer, rng) for step in steps),
        settings.micro_batch,
        f"stage {number}",
    )


def fit_rows(
    model: Qwen2ForCausalLM,
    pad: int,
    optimizer: StageOptimizer,
    batches: Iterable[list[Row]],
    micro_batch: int,
    title: str,
) -> list[float]:
    """Take one optimizer step a batch, each cut into micro-batches of rows; return the losses, in nats per token."""
    losses, start = [], time.perf_counter()
    model.train()
    for step, batch in enumerate(batches):
        count = sum(len(row.predicted) for row in batch)
        total = 0.0
        for i in range(0, len(batch), micro_batch):
            input_ids, targets = pad_rows(batch[i : i + micro_batch], pad)
            # Right padding under a causal mask: no attention mask is needed, padded positions are not targets.
            keep = targets != IGNORED
            logits = model.lm_head(model.model(input_ids=input_ids, use_cache=False).last_hidden_state[keep])
            loss = nn.functional.cross_entropy(logits, targets[keep], reduction="sum") / count
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(total)
        if step % 50 == 49:
            print(f"{title} step {step + 1:4d}  loss {sum(losses[-50:]) / 50:.4f}  "
                  f"{time.perf_counter() - start:6.1f} s", flush=True)  # fmt: skip
    return losses


def _means(losses: list[float], width: int = 50) -> list[float]:
    """Return the mean loss of each ``width`` steps, for the record."""
    return [round(sum(losses[i : i + width]) / width, 4) for i in range(0, len(losses) // width * width, width)]


def measure_levels(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    levels: Iterable[str],
    problems: int,
    seed: int,
    max_new_tokens: int = 512,
) -> dict[str, Measurement]:
    """Measure the policy on held-out problems of each level, and print what it scores."""
    accuracy = {}
    for name in levels:
        drawn = make_problems(name, problems, seed, "heldout")
        accuracy[name] = measure(model, tokenizer, drawn, seed, max_new_tokens)
        print(f"level {name}: {accuracy[name]}", flush=True)
    return accuracy


def save(
    out: Path,
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    settings: dict[str, Any],
    losses: list[list[float]],
    accuracy: dict[str, Measurement],
) -> None:
    """Write the model, the tokenizer and ``warmstart.json``; the record there begins with the script's settings."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = {
        "settings": settings,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "loss_per_50_steps": [_means(stage) for stage in losses],
        "levels": {name: asdict(LEVELS[name]) | asdict(m) for name, m in accuracy.items()},
    }
    (out / "warmstart.json").write_text(json.dumps(record, indent=1) + "\n")


def run(settings: WarmStart, out: Path) -> None:
    """Run the script: tokenizer, training, evaluation, output."""
    tokenizer = build_tokenizer(corpus(settings.corpus, settings.seed), settings.vocab_size, MAX_LENGTH)
    model = random_policy(tiny_config(tokenizer), settings.seed)
    losses = [train_stage(model, tokenizer, settings, number) for number in range(len(settings.stages))]
    accuracy = measure_levels(model, tokenizer, TINY_LEVELS, settings.evaluation_problems, settings.seed)
    save(out, model, tokenizer, asdict(settings), losses, accuracy)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    run(WarmStart(seed=arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
