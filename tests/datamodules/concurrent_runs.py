"""Runs whose rounds are made while the trainer works, on one process: parts that say what they did and wait for one another."""

from __future__ import annotations

import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lit_tpgrpo.callbacks import RoundCallback
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Outcome, Round
from lit_tpgrpo.rollout import verifying
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.training.adapters import LoRA
from tests.rollout.own_weights import OwnWeights

PATIENCE_S = 60.0
ROUND_OF_SEED = {derived_seed(0, "round", index, g): index for index in range(9) for g in range(6)}


def digest(model: torch.nn.Module) -> str:
    return fingerprint(model.named_parameters())


@pytest.fixture(autouse=True)
def luck(monkeypatch):
    """A random model is never right. Here one or two samples of a group are, by the problem: whatever else is verified."""

    def verify(verifier, pairs, divisions):
        right = [s.sample == 0 or (s.sample == 1 and int(p.answer) % 3 == 0) for p, s in pairs]
        return [(Outcome.CORRECT if r else Outcome.INCORRECT, None) for r in right]

    monkeypatch.setattr(verifying, "verify_solutions", verify)


class Timeline:
    """What the engine and the trainer have done, for the one to wait for the other."""

    def __init__(self) -> None:
        self.sampled_with: dict[int, set[str]] = {}  # by round
        self.evaluated_with: list[str] = []
        self.trained_from: dict[int, str] = {}  # by round
        self.at_work = 0
        self.done: dict[tuple[str, int], threading.Event] = {
            (what, index): threading.Event() for what in ("sampled", "trained") for index in range(9)
        }

    def wait_for(self, what: str, index: int) -> None:
        assert self.done[what, index].wait(PATIENCE_S), f"round {index} was not {what}"


class NotedEngine(OwnWeights):
    """Says with which weights it samples. With ``last`` it begins with a round when the one before is trained on."""

    def __init__(self, timeline: Timeline, last: bool = False) -> None:
        super().__init__(batch_size=4)  # one group at once
        self.timeline, self.last = timeline, last

    def sample(self, prompts, n, params, seeds):
        self.timeline.at_work += 1
        try:
            assert self.timeline.at_work == 1
            yield from self._noted(prompts, n, params, seeds)
        finally:  # an evaluation closes it before its end
            self.timeline.at_work -= 1

    def _noted(self, prompts, n, params, seeds):
        timeline, index = self.timeline, ROUND_OF_SEED.get(seeds[0]) if len(seeds) else None
        if index is not None and self.last and index > 0:
            timeline.wait_for("trained", index - 1)
        for item in super().sample(prompts, n, params, seeds):
            assert self._policy is not None
            with_ = digest(self._policy.policy_model)
            if index is None:
                timeline.evaluated_with.append(with_)
            else:
                timeline.sampled_with.setdefault(index, set()).add(with_)
            yield item
        if index is not None:
            timeline.done["sampled", index].set()


class NotedModule(TPGRPOModule):
    """With ``last`` it begins with a round when the next one is sampled."""

    timeline: Timeline
    last, last_round = False, 2

    def training_step(self, batch, batch_idx):
        index = batch.round_index
        self.timeline.trained_from.setdefault(index, fingerprint(self.named_tensors()))
        if self.last and index < self.last_round:
            self.timeline.wait_for("sampled", index + 1)
        super().training_step(batch, batch_idx)
        if self.global_step % 2 == 0:
            self.timeline.done["trained", index].set()


class StopAt(L.Callback):
    """Ends the run as a user does who has seen enough: what is sampled meanwhile does not know of it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step == self.step


class Watched(RoundCallback):
    """Rounds, the model as it is when they are complete, and which hooks were called at which optimizer step."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.models: list[Any] = []
        self.hooks: list[tuple[str, int, int]] = []
        self.positions: list[int] = []  # of the batch that is about to be trained on

    def on_round_start(self, trainer, pl_module, round_index):
        self.hooks.append(("start", round_index, trainer.global_step))

    def on_round_resume(self, trainer, pl_module, round_index):
        self.hooks.append(("resume", round_index, trainer.global_step))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.positions.append(trainer.datamodule.state_dict()["position"])

    def on_round_end(self, trainer, pl_module, round_):
        self.hooks.append(("end", round_.index, trainer.global_step))
        self.rounds.append(round_)
        self.models.append(deepcopy(pl_module.policy_model))


def data(engine: HFEngine | None = None, **kwargs: Any) -> MathRolloutDataModule:
    settings: dict[str, Any] = {
        "train": ArithmeticProblems("1", n=16),
        "group_size": 4,
        "problems_per_step": 2,
        "steps_per_round": 2,
        "steps_per_epoch": 6,
        "keep": "all",
        "sampling": SamplingParams(max_new_tokens=12),
        "prompt_template": "{problem}",
        "progress": False,
        "schedule": "ahead",
    }
    return MathRolloutDataModule(engine=engine or OwnWeights(batch_size=4), **(settings | kwargs))


def trainer(folder: Path, *callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    settings: dict[str, Any] = {"max_epochs": 1, "logger": CSVLogger(folder), "enable_checkpointing": False} | kwargs
    return L.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **settings,
    )


def module(
    model: str, timeline: Timeline | None = None, lr: float = 0.5, last: bool = False, adapter: LoRA | None = None
) -> NotedModule:
    torch.manual_seed(0)
    built = NotedModule(model, optimizer=lambda p: torch.optim.SGD(p, lr=lr), adapter=adapter)
    built.timeline, built.last = timeline or Timeline(), last
    return built


def weights(m: TPGRPOModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in m.policy_model.parameters()])


def nobody_works() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("round-")]


def naive_logprobs(model: Any, solution: Any) -> torch.Tensor:
    ids = torch.tensor([[*solution.prompt_ids.tolist(), *solution.completion_ids.tolist()]])
    with torch.no_grad():
        logprobs = model.eval()(ids).logits[0].log_softmax(-1)
    start = len(solution.prompt_ids)
    return torch.stack([logprobs[t - 1, ids[0, t]] for t in range(start, ids.shape[1])])


class Endless(OwnWeights):
    """Never gets to the end of a round from ``index`` on, and looks whether it is to stop."""

    def __init__(self, index: int) -> None:
        super().__init__(batch_size=4)
        self.index, self.while_waiting, self.begun = index, lambda: None, threading.Event()

    def sample(self, prompts, n, params, seeds):
        for number, item in enumerate(super().sample(prompts, n, params, seeds)):
            if number and ROUND_OF_SEED.get(seeds[0], 0) >= self.index:
                self.begun.set()
                while True:
                    self.while_waiting()
                    threading.Event().wait(0.01)
            yield item
