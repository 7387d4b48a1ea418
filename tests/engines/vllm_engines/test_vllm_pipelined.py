"""Pipelined rounds with a real server: all of a round is sampled, and scored, with the weights with which it began."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.vllm import VLLMServer
from lit_tpgrpo.training.adapters import LoRA
from tests.datamodules.concurrent_runs import (
    Watched,
    data,
    luck,  # noqa: F401  a fixture
    module,
    naive_logprobs,
    trainer,
    weights,
)
from tests.engines.vllm_engines.real_server import KEY, RealServer

EXACT = 1e-3


class Opened(Watched):
    """Also the model with which each round begins: when one of these is complete, the trainer has gone on."""

    def __init__(self) -> None:
        super().__init__()
        self.began_with: dict[int, Any] = {}

    def on_round_start(self, trainer, pl_module, round_index):
        super().on_round_start(trainer, pl_module, round_index)
        self.began_with[round_index] = deepcopy(pl_module.policy_model)


def pipelined(url: str, **kwargs: Any):
    """Two rounds of six problems, three steps of two problems each."""
    return data(VLLMServer(url), **({"schedule": "pipelined", "steps_per_round": 3, "keep_rounds": 0} | kwargs))


def gap(logprobs, model, solution) -> float:
    return float((naive_logprobs(model, solution) - torch.tensor(logprobs)).abs().max())


@pytest.mark.parametrize(
    ("adapter", "options"), [(None, ()), (LoRA(4, 6.0), ("--adapter-rank", "4"))], ids=["all weights", "adapter"]
)
def test_a_round_has_one_set_of_weights_though_the_trainer_goes_on_also_when_resumed(
    random_model, tmp_path, monkeypatch, adapter, options
):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    server = RealServer(random_model, tmp_path, *options)
    server.launch()
    server.await_ready()
    val = ArithmeticProblems("1", n=2, split="heldout")
    try:
        whole, ends = Opened(), []
        checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1)
        trained = module(random_model, lr=2.0, adapter=adapter)
        run = trainer(tmp_path / "whole", whole, checkpoint, enable_checkpointing=True, val_check_interval=3)
        run.fit(trained, datamodule=pipelined(server.url, val=val, eval_samples=1))
        ends.append(weights(trained))
        (saved,) = (tmp_path / "ckpt").glob("*step=4.ckpt")  # in the middle of round 1
        again, resumed = module(random_model, lr=2.0, adapter=adapter), Opened()
        second = trainer(tmp_path / "resumed", resumed, val_check_interval=3)
        part = pipelined(server.url, val=val, eval_samples=1, store_dir=tmp_path / "rounds")
        second.fit(again, datamodule=part, ckpt_path=saved, weights_only=True)
        ends.append(weights(again))
    finally:
        server.kill()
    assert whole.hooks == [("start", 0, 0), ("end", 0, 1), ("start", 1, 3), ("end", 1, 4)]
    assert len(whole.rounds) == 2
    for made, gone_on in zip(whole.rounds, whole.models, strict=True):
        began_with = whole.began_with[made.index]
        solutions = [(kept.judged.solution, kept.trainer_logprobs) for kept in made.kept]
        assert len(solutions) == 24
        assert made.metrics["mismatch/unscored"] == 0
        assert max(gap(s.logprobs, began_with, s) for s, _ in solutions) < EXACT
        assert max(gap(scored, began_with, s) for s, scored in solutions) < EXACT
        assert max(gap(s.logprobs, gone_on, s) for s, _ in solutions) > 0.01
    (rest,) = resumed.rounds
    assert rest.index == 1
    for kept in rest.kept:
        assert gap(kept.judged.solution.logprobs, whole.began_with[1], kept.judged.solution) < EXACT
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=EXACT)
