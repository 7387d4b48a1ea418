"""Rounds ahead with a real server: it samples each with the weights of the round before, evaluations with the current ones."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_tpgrpo.callbacks import MathEvaluation
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.vllm import VLLMServer
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


def gap(made, model) -> float:
    """Most that the engine's log-probs are off those of a model."""
    solutions = [j.solution for g in made.groups for j in g.solutions]
    return max(float((naive_logprobs(model, s) - torch.tensor(s.logprobs)).abs().max()) for s in solutions)


def test_rounds_and_evaluations_have_their_own_weights_also_when_resumed(random_model, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    server = RealServer(random_model, tmp_path)
    server.launch()
    server.await_ready()
    val = ArithmeticProblems("1", n=2, split="heldout")
    try:
        whole, ends = Watched(), []
        checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1)
        trained = module(random_model, lr=20.0)
        run = trainer(
            tmp_path / "whole", whole, MathEvaluation(), checkpoint, enable_checkpointing=True, val_check_interval=3
        )
        run.fit(trained, datamodule=data(VLLMServer(server.url), val=val, eval_samples=1, keep_rounds=0))
        ends.append(weights(trained))
        (saved,) = (tmp_path / "ckpt").glob("*step=3.ckpt")  # in the middle of round 1, when round 2 was begun
        again, resumed = module(random_model, lr=20.0), Watched()
        second = trainer(tmp_path / "resumed", resumed, MathEvaluation(), val_check_interval=3)
        part = data(VLLMServer(server.url), val=val, eval_samples=1, store_dir=tmp_path / "rounds")
        second.fit(again, datamodule=part, ckpt_path=saved, weights_only=True)
        ends.append(weights(again))
    finally:
        server.kill()
    for made in whole.rounds:
        of = max(made.index - 1, 0)
        assert gap(made, whole.models[of]) < 1e-3
        if made.index > 0:
            assert gap(made, whole.models[made.index]) > 0.01
    assert [r.index for r in resumed.rounds] == [1, 2]
    assert gap(resumed.rounds[1], whole.models[1]) < 1e-3
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-3)
