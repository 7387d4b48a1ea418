"""Train the erring policy: chains of thirty steps with many wrong results, most of which are corrected; evaluate, save.

    python -m lit_tpgrpo.datamodules.arithmetic.erring_warmstart --out /tmp/tiny-erring

A wrong result is visible (10 to 19, modulo 10). Nine in ten are replaced in the next paragraph, often by another wrong one; one
that is not makes the solution wrong. So one chain in five is right, by way of corrected errors: what process rewards are for.
All chains are of the training split. ``warmstart.json`` in the output folder has the settings, the loss curve, and the
accuracy per level.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.datamodules.arithmetic.chains import NO_NOISE, NoiseRates
from lit_tpgrpo.datamodules.arithmetic.phrase_tokenizer import phrase_tokenizer
from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS
from lit_tpgrpo.datamodules.arithmetic.tiny import random_policy, tiny_config
from lit_tpgrpo.datamodules.arithmetic.training_data import Row, chain_rows
from lit_tpgrpo.datamodules.arithmetic.warmstart import Phase, Stage, StageOptimizer, fit_rows, measure_levels, save

ERRING = NoiseRates(
    error=0.6,
    error_multiply=0.6,
    visible=1.0,
    notice_now=0.975,
    notice_late=0.0,
    notice_again=0.975,
    botched=0.6,
    false_alarm=0.0,
    check=0.02,
    max_reflections=40,
    variety=0.1,
)
EASY = replace(ERRING, error=0.3, error_multiply=0.3, botched=0.3)
LEVEL = "6"
"""The level whose problems the policy is meant for."""


@dataclass(frozen=True, slots=True)
class ErringStage(Stage):
    """A stage of the training: noise, learning rate, and whose chains."""

    batch: int
    mix: dict[str, float]
    """Share of each level among the chains."""


# Short chains first: which operation comes next is learnt on them in a third of the tokens.
STAGES = (
    ErringStage(
        phases=(Phase(100, NO_NOISE), Phase(200, EASY)),
        lr=0.01,
        warmup=20,
        hold=0.6,
        batch=32,
        mix={"1": 0.5, "2": 0.5},
    ),
    ErringStage(phases=(Phase(1200, ERRING),), lr=0.006, warmup=20, hold=0.6, batch=16, mix={"2": 0.1, LEVEL: 0.9}),
)


@dataclass(frozen=True, slots=True)
class ErringWarmStart:
    """Settings of the script; the packaged model was trained with the defaults."""

    seed: int = 0
    stages: tuple[ErringStage, ...] = STAGES
    micro_batch: int = 16
    weight_decay: float = 0.01
    levels: tuple[str, ...] = ("2", LEVEL)
    """Levels on which the policy is measured."""
    evaluation_problems: int = 256
    longest: int = 400
    """Tokens at which an evaluated solution is cut off."""


def _batch(stage: ErringStage, step: int, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> list[Row]:
    rows = chain_rows(stage.batch, stage.mix, stage.phase_at(step).noise, tokenizer, rng)
    return sorted(rows, key=lambda row: len(row.ids))


def run(settings: ErringWarmStart, out: Path) -> None:
    """Run the script: training, evaluation, output."""
    tokenizer = phrase_tokenizer(LEVELS[LEVEL])
    model = random_policy(tiny_config(tokenizer), settings.seed)
    rng = random.Random(f"erring/{settings.seed}")
    losses = [
        fit_rows(
            model,
            cast(int, tokenizer.pad_token_id),
            StageOptimizer(model, stage, settings.weight_decay),
            (_batch(stage, step, tokenizer, rng) for step in range(stage.steps)),
            settings.micro_batch,
            f"stage {number}",
        )
        for number, stage in enumerate(settings.stages)
    ]
    accuracy = measure_levels(
        model, tokenizer, settings.levels, settings.evaluation_problems, settings.seed, settings.longest
    )
    save(out, model, tokenizer, asdict(settings), losses, accuracy)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    run(ErringWarmStart(seed=arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
