"""Validate two sets on as many processes as torchrun starts: suite_program.py MODEL OUT; also the parts of test_suites.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.sources import EvaluationSet
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify.verifier import MathVerifier

WORLD = int(os.environ.get("WORLD_SIZE", 1))


class LuckyByGold(MathVerifier):
    """A random model is never right. Here the first samples of a group are, as many as its gold answer modulo 3."""

    def verify_all(self, pairs):
        return [Outcome.CORRECT if i < int(gold) % 3 else Outcome.INCORRECT for i, (gold, _) in enumerate(pairs)]


class Counting(HFEngine):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__(batch_size=4)
        self.loaded, self.calls, self.texts = 0, [], {}

    def load_weights(self, policy):
        self.loaded += 1
        super().load_weights(policy)

    def sample(self, prompts, n, params, seeds):
        self.calls.append((len(prompts), n, params.max_new_tokens))
        for i, completions in super().sample(prompts, n, params, seeds):
            self.texts[seeds[i]] = [c.token_ids.tolist() for c in completions]
            yield i, completions


def heldout(n: int, seed: int = 0) -> ArithmeticProblems:
    return ArithmeticProblems("1", n=n, seed=seed, split="heldout")


def sets() -> dict:
    """Five problems of three samples, three of two shorter ones."""
    return {"long": EvaluationSet(heldout(5), 3), "short": EvaluationSet(heldout(3, 1), 2, SamplingParams(3))}


def data(**kwargs) -> MathRolloutDataModule:
    settings = {
        "train": ArithmeticProblems("1", n=8),
        "val": sets(),
        "verifier": LuckyByGold(),
        "engine": Counting(),
        "group_size": 2,
        "problems_per_step": 1,
        "steps_per_round": 1,
        "steps_per_epoch": 2,
        "keep": "all",
        "sampling": SamplingParams(max_new_tokens=5),
        "prompt_template": "{problem}",
        "progress": False,
    }
    return MathRolloutDataModule(**(settings | kwargs))


def module(model: str) -> TPGRPOModule:
    torch.manual_seed(0)
    return TPGRPOModule(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def trainer(folder: Path, *callbacks: L.Callback, **kwargs) -> L.Trainer:
    settings = {
        "max_epochs": 1,
        "devices": WORLD,
        "strategy": "ddp" if WORLD > 1 else "auto",
        "enable_progress_bar": False,
        "enable_checkpointing": False,
    } | kwargs
    return L.Trainer(
        accelerator="cpu",
        enable_model_summary=False,
        log_every_n_steps=1,
        logger=TensorBoardLogger(str(folder), name="", version="run"),
        callbacks=list(callbacks),
        **settings,
    )


def main(model: str, out: Path) -> None:
    for name, options in (("all", {}), ("limited", {"limit_val_batches": 1})):
        (scores,) = trainer(out / name, **options).validate(module(model), datamodule=data(), verbose=False)
        if int(os.environ.get("RANK", 0)) == 0:
            (out / f"{name}.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
