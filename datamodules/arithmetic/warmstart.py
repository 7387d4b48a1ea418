"""Make the tiny policy: learn a tokenizer, train on noisy self-correcting chains, measure, save.

    python -m lit_tpgrpo.datamodules.arithmetic.warmstart --out /tmp/tiny-qwen2

Chains are written on the fly from the training split, so held-out problems are new to the model. The folder holds
``warmstart.json``: the settings, the loss curve and the accuracy per level that the result was measured to have.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2ForCausalLM

from lit_tpgrpo.datamodules.arithmetic.chains import NO_NOISE, Noise, write_chain
from lit_tpgrpo.datamodules.arithmetic.measure import Measurement, measure, prompt_text
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, draw_task, make_problems
from lit_tpgrpo.datamodules.arithmetic.tiny import MAX_LENGTH, random_policy, tiny_config
from lit_tpgrpo.datamodules.arithmetic.tokenizer import build_tokenizer, corpus

_IGNORED = -100


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Settings of the script; the defaults made the shipped model."""

    seed: int = 0
    steps: int = 700
    batch: int = 32
    rows: int = 32
    """Chains per forward pass: a batch is sorted by length and cut into rows, so that little is padded."""
    lr: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.01
    vocab_size: int = 512
    corpus: int = 3000
    mix: dict[str, float] = field(default_factory=lambda: {"1": 0.2, "2": 0.3, "3": 0.1, "4": 0.25, "5": 0.15})
    """Share of each level in a batch."""
    noise: Noise = field(default_factory=Noise)
    clean: float = 0.4
    """Share of the steps, at the beginning, on chains without noise: tables are learnt faster from right entries."""
    evaluation_problems: int = 512


def write_batch(
    settings: WarmStart, noise: Noise, tokenizer: PreTrainedTokenizerBase, rng: random.Random
) -> list[tuple[list[int], int]]:
    """One batch of ``(token ids, length of the prompt)`` from the training split."""
    names = rng.choices(list(settings.mix), list(settings.mix.values()), k=settings.batch)
    prompts, completions = [], []
    for name in names:
        task = draw_task(LEVELS[name], rng)
        while task.split != "train":
            task = draw_task(LEVELS[name], rng)
        prompts.append(prompt_text(tokenizer, task.prompt))
        completions.append(write_chain(task, noise, rng).text)
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(completions, add_special_tokens=False)["input_ids"]
    return [(p + c + [tokenizer.eos_token_id], len(p)) for p, c in zip(prompt_ids, completion_ids, strict=True)]


def pad_rows(rows: list[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded ``(input_ids, targets)``; only completion tokens are targets."""
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), width), pad)
    targets = torch.full((len(rows), width), _IGNORED)
    for i, (ids, prompt) in enumerate(rows):
        input_ids[i, : len(ids)] = torch.tensor(ids)
        targets[i, prompt - 1 : len(ids) - 1] = torch.tensor(ids[prompt:])
    return input_ids, targets


def train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, settings: WarmStart) -> list[float]:
    """Train in place with AdamW under a cosine schedule; return the loss (nats per completion token) of every step."""
    rng = random.Random(f"warmstart/{settings.seed}")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / settings.warmup, 0.5 * (1 + math.cos(math.pi * s / settings.steps))),
    )
    losses, began = [], time.perf_counter()
    model.train()
    for step in range(settings.steps):
        noise = NO_NOISE if step < settings.clean * settings.steps else settings.noise
        batch = sorted(write_batch(settings, noise, tokenizer, rng), key=lambda row: len(row[0]))
        count = sum(len(ids) - prompt for ids, prompt in batch)
        total = 0.0
        for i in range(0, len(batch), settings.rows):
            input_ids, targets = pad_rows(batch[i : i + settings.rows], tokenizer.pad_token_id)
            # Right padding under a causal mask: no attention mask is needed, padded positions are not targets.
            keep = targets != _IGNORED
            logits = model.lm_head(model.model(input_ids=input_ids, use_cache=False).last_hidden_state[keep])
            loss = torch.nn.functional.cross_entropy(logits, targets[keep], reduction="sum") / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(total)
        if step % 50 == 0 or step == settings.steps - 1:
            print(f"step {step:4d}  loss {total:.4f}  {time.perf_counter() - began:6.1f} s", flush=True)
    return losses


def save(
    out: Path,
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    settings: WarmStart,
    losses: list[float],
    accuracy: dict[str, Measurement],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = {
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "loss": [round(loss, 4) for loss in losses],
        "levels": {name: asdict(LEVELS[name]) | asdict(m) for name, m in accuracy.items()},
    }
    (out / "warmstart.json").write_text(json.dumps(record, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    defaults = WarmStart()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimizer steps (default: %(default)s)")
    arguments = parser.parse_args(argv)
    settings = WarmStart(seed=arguments.seed, steps=arguments.steps)
    tokenizer = build_tokenizer(corpus(settings.corpus, settings.seed), settings.vocab_size, MAX_LENGTH)
    model = random_policy(tiny_config(tokenizer), settings.seed)
    losses = train(model, tokenizer, settings)
    accuracy = {}
    for name in LEVELS:
        problems = make_problems(name, settings.evaluation_problems, settings.seed, "heldout")
        accuracy[name] = measure(model, tokenizer, problems, settings.seed)
        print(f"level {name}: {accuracy[name]}", flush=True)
    save(arguments.out, model, tokenizer, settings, losses, accuracy)


if __name__ == "__main__":
    main()
