"""Rounds ahead: which weights sample a round does not depend on what takes how long, nor on where the run was interrupted."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open

from lit_tpgrpo.callbacks import CapabilityEstimator, MathEvaluation
from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.datamodules import background_factory, round_factory
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.evidence import MonteCarloContinuations
from lit_tpgrpo.judges.generative import GenerativeJudge
from lit_tpgrpo.report.metrics import Series, read_metrics
from lit_tpgrpo.training.adapters import LoRA
from tests.datamodules.concurrent_runs import (
    Endless,
    NotedEngine,
    StopAt,
    Timeline,
    Watched,
    data,
    digest,
    luck,  # noqa: F401  a fixture
    module,
    naive_logprobs,
    nobody_works,
    trainer,
    weights,
)


def test_the_weights_that_sample_a_round_are_those_before_the_last_one_however_long_anything_takes(
    random_model, tmp_path
):
    ends, hooks = [], []
    for name, engine_last, trainer_last in (("free", 0, 0), ("engine", 1, 0), ("trainer", 0, 1)):
        timeline, watched = Timeline(), Watched()
        trained = module(random_model, timeline, last=bool(trainer_last))
        engine = NotedEngine(timeline, bool(engine_last))
        trainer(tmp_path / name, watched).fit(trained, datamodule=data(engine))
        begun = timeline.trained_from
        assert list(begun) == [0, 1, 2]
        assert len(set(begun.values())) == 3
        for index in begun:
            assert timeline.sampled_with[index] == {begun[max(index - 1, 0)]}
        assert 3 not in timeline.sampled_with  # the run ends before it
        assert [r.policy_version for r in watched.rounds] == [0, 0, 2]
        assert [r.trained_from for r in watched.rounds] == [0, 2, 4]
        assert [r.metrics["ahead/staleness"] for r in watched.rounds] == [0.0, 2.0, 2.0]
        (logged,) = (tmp_path / name).rglob("metrics.csv")
        assert read_metrics(logged.parent)["round_step"] == Series((0, 2, 4), (0.0, 2.0, 4.0))
        solutions = [j.solution for r in watched.rounds for g in r.groups for j in g.solutions]
        assert [s.policy_version for s in solutions] == [0] * 32 + [2] * 16
        assert nobody_works()
        ends.append(weights(trained))
        hooks.append(watched.hooks)
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    order = [("start", 0), ("end", 0), ("start", 1), ("end", 1), ("start", 2), ("end", 2), ("start", 3)]
    assert hooks == [[(*hook, step) for hook, step in zip(order, (0, 0, 0, 2, 2, 4, 4), strict=True)]] * 3
    serial = module(random_model)
    trainer(tmp_path / "serial").fit(serial, datamodule=data(schedule="serial"))
    assert not torch.equal(weights(serial), ends[0])


def test_an_adapter_samples_ahead_and_lies_beside_the_round_alone(random_model, tmp_path):
    """Its run is the same whatever takes how long, and resumed in the middle of a round with the next one begun."""
    ends = []
    for name, engine_last, trainer_last in (("engine", True, False), ("trainer", False, True)):
        timeline = Timeline()
        trained = module(random_model, timeline, lr=20.0, last=trainer_last, adapter=LoRA(4, 8.0))
        trainer(tmp_path / name).fit(trained, datamodule=data(NotedEngine(timeline, engine_last)))
        begun = timeline.trained_from
        assert len(set(begun.values())) == 3
        for index in begun:
            assert timeline.sampled_with[index] == {begun[max(index - 1, 0)]}
        ends.append(weights(trained))
    assert torch.equal(ends[0], ends[1])
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    first = trainer(tmp_path / "cut", checkpoint, StopAt(3), enable_checkpointing=True)
    part = data(Endless(2), store_dir=tmp_path / "rounds")
    first.fit(module(random_model, lr=20.0, adapter=LoRA(4, 8.0)), datamodule=part)
    (file,) = (tmp_path / "rounds").rglob("weights.safetensors")
    with safe_open(file, "pt") as stored:
        assert {name.rpartition(".lora_")[2] for name in list(stored.keys())} == {"A.weight", "B.weight"}
    resumed, last = module(random_model, lr=20.0, adapter=LoRA(4, 8.0)), tmp_path / "ckpt" / "last.ckpt"
    part = data(store_dir=tmp_path / "rounds")
    trainer(tmp_path / "resumed").fit(resumed, datamodule=part, ckpt_path=last, weights_only=True)
    assert torch.equal(weights(resumed), ends[0])


@pytest.mark.parametrize("given", ["auto", "token_truncate", "off"])
def test_old_log_probs_are_of_the_weights_that_training_begins_with(random_model, tmp_path, given):
    """And importance weights lead from those that sampled to them; without, the loss's own ratio does all the way."""
    watched = Watched()
    trainer(tmp_path, watched).fit(module(random_model, lr=20.0), datamodule=data(correction=given))
    moved = 0.0
    for made, model in zip(watched.rounds, watched.models, strict=True):
        for kept in made.kept:
            if given == "off":
                assert kept.importance_weights is None
                assert kept.trainer_logprobs is None
                continue
            sampled = torch.tensor(kept.judged.solution.logprobs)
            now = naive_logprobs(model, kept.judged.solution)
            assert torch.allclose(kept.trainer_logprobs, now, atol=1e-4)
            assert torch.allclose(kept.importance_weights, (now - sampled).exp().clamp(max=2.0), atol=1e-3)
            moved = max(moved, float((now - sampled).abs().max()))
    assert (moved > 0.1) is (given != "off")


def test_an_evaluation_waits_until_the_next_round_is_sampled(random_model, tmp_path):
    """The engine has one set of weights: neither is sampled with those of the other, and never both at once."""
    alone = module(random_model)
    trainer(tmp_path / "alone").fit(alone, datamodule=data())
    timeline = Timeline()
    evaluated = module(random_model, timeline)
    val = ArithmeticProblems("1", n=2, split="heldout")
    part = data(NotedEngine(timeline), val=val, eval_samples=1)
    trainer(tmp_path / "evaluated", MathEvaluation(), val_check_interval=1).fit(evaluated, datamodule=part)
    assert torch.equal(weights(alone), weights(evaluated))
    begun = timeline.trained_from
    for index in begun:
        assert timeline.sampled_with[index] == {begun[max(index - 1, 0)]}
    with_ = timeline.evaluated_with[::2]
    assert with_ == timeline.evaluated_with[1::2]
    assert len(with_) == len(set(with_)) == 7  # before the first step and after each
    assert [with_[0], with_[2], with_[4]] == list(begun.values())
    assert with_[6] == digest(evaluated.policy_model)


def test_the_end_of_a_run_does_not_wait_for_a_round_that_it_will_not_get_to(random_model, tmp_path):
    part = data(Endless(2), val=ArithmeticProblems("1", n=2, split="heldout"), eval_samples=1)
    run = trainer(tmp_path, StopAt(4), MathEvaluation())
    run.fit(module(random_model), datamodule=part)
    assert run.global_step == 4
    assert "eval/avg@1" in run.callback_metrics
    assert nobody_works()


def test_an_evaluation_does_not_wait_when_the_time_of_the_run_is_over(random_model, tmp_path, monkeypatch):
    engine = Endless(1)
    monkeypatch.setattr(
        background_factory, "is_out_of_time", lambda trainer: trainer.global_step == 1 and engine.begun.is_set()
    )

    class StopAfterEvaluation(L.Callback):  # as the Timer does at the next step
        def on_validation_end(self, trainer, pl_module):
            trainer.should_stop |= trainer.global_step == 1

    part = data(engine, val=ArithmeticProblems("1", n=2, split="heldout"), eval_samples=1)
    run = trainer(tmp_path, MathEvaluation(), StopAfterEvaluation(), val_check_interval=1)
    run.fit(module(random_model), datamodule=part)
    assert run.global_step == 1
    assert "eval/avg@1" in run.callback_metrics
    assert nobody_works()


def test_a_run_with_more_steps_goes_on_with_the_round_that_the_first_one_did_not_get_to(random_model, tmp_path):
    """It ends as one that had them from the start: the weights with which the next round is sampled lie beside it."""
    whole = module(random_model)
    trainer(tmp_path / "whole").fit(whole, datamodule=data())
    checkpoint, timeline = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True), Timeline()
    first = trainer(tmp_path / "first", checkpoint, enable_checkpointing=True, max_steps=4)
    first.fit(module(random_model, timeline), datamodule=data(NotedEngine(timeline)))
    assert list(timeline.sampled_with) == [0, 1]
    resumed, last = module(random_model), tmp_path / "ckpt" / "last.ckpt"
    trainer(tmp_path / "second").fit(resumed, datamodule=data(), ckpt_path=last, weights_only=True)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_run_whose_time_is_over_while_it_waits_ends_and_goes_on_from_there(random_model, tmp_path, monkeypatch):
    whole = module(random_model)
    trainer(tmp_path / "whole").fit(whole, datamodule=data())
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    run, engine = trainer(tmp_path / "cut", checkpoint, enable_checkpointing=True), Endless(1)
    with monkeypatch.context() as patch:
        patch.setattr(
            round_factory, "is_out_of_time", lambda trainer: trainer.global_step == 2 and engine.begun.is_set()
        )
        run.fit(module(random_model), datamodule=data(engine))
    assert run.global_step == 2
    assert nobody_works()
    resumed = module(random_model)
    second, watched = data(), Watched()
    last = tmp_path / "ckpt" / "last.ckpt"
    trainer(tmp_path / "resumed", watched).fit(resumed, datamodule=second, ckpt_path=last, weights_only=True)
    assert torch.equal(weights(resumed), weights(whole))
    assert watched.hooks[:2] == [("resume", 1, 2), ("end", 1, 2)]


def estimator() -> CapabilityEstimator:
    return CapabilityEstimator(0.5, "uncertainty")


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("endless", [True, False], ids=["begun", "whole"])
def test_a_resumed_run_ends_with_the_same_weights(random_model, tmp_path, stop, endless):
    """Interrupted in the middle (1, 3) or at the end (2, 4) of a round, with the next one begun or whole."""
    whole = module(random_model)
    trainer(tmp_path / "whole", estimator()).fit(whole, datamodule=data())
    timeline, checkpoint = (
        Timeline(),
        ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True),
    )
    current = (stop - 1) // 2
    engine = Endless(current + 1) if endless else NotedEngine(timeline)
    first = trainer(tmp_path / "cut", checkpoint, estimator(), StopAt(stop), enable_checkpointing=True)
    first.fit(module(random_model, timeline, last=not endless), datamodule=data(engine))
    resumed, watched, again = module(random_model), Watched(), NotedEngine(Timeline())
    second = trainer(tmp_path / "resumed", watched, estimator())
    second.fit(resumed, datamodule=data(again), ckpt_path=tmp_path / "ckpt" / "last.ckpt", weights_only=True)
    assert second.global_step == 6
    assert torch.equal(weights(resumed), weights(whole))
    known = [("resume", current + 1, stop)] if stop % 2 == 0 else [("resume", current, stop), ("end", current, stop)]
    assert watched.hooks[: len(known)] == known
    assert watched.rounds[0].metrics["ahead/staleness"] == (0.0 if stop == 1 else 2.0)
    assert 0 not in again.timeline.sampled_with
    if not endless:
        assert current + 1 not in again.timeline.sampled_with
    assert ("mismatch/unscored", 0.0) in watched.rounds[0].metrics.items()


def cut(random_model: str, folder: Path, stop: int = 1) -> Path:
    """A run that ended in round 0, when one group of round 1 was sampled; its checkpoint."""
    checkpoint = ModelCheckpoint(dirpath=folder / "ckpt", every_n_train_steps=1, save_last=True)
    run = trainer(folder, checkpoint, StopAt(stop), enable_checkpointing=True)
    run.fit(module(random_model), datamodule=data(Endless(1), store_dir=folder / "rounds"))
    return folder / "ckpt" / "last.ckpt"


def test_without_the_weights_beside_it_a_round_is_sampled_again(random_model, tmp_path, caplog):
    last = cut(random_model, tmp_path)
    (tmp_path / "rounds" / "round_000001" / "weights.safetensors").unlink()
    watched = Watched()
    part = data(store_dir=tmp_path / "rounds")
    trainer(tmp_path / "resumed", watched).fit(module(random_model), datamodule=part, ckpt_path=last, weights_only=True)
    assert "round 1 was sampled at step 0 and is not whole on disk any more" in caplog.text
    assert "all of it is sampled again, with the weights of step 1" in caplog.text
    assert [r.policy_version for r in watched.rounds] == [0, 1, 2]
    assert [r.metrics["ahead/staleness"] for r in watched.rounds] == [0.0, 1.0, 2.0]


def test_scores_are_of_the_weights_that_this_run_trains_from(random_model, tmp_path):
    """A checkpoint of step 1, resumed twice: with another learning rate the weights of step 2 are others."""
    last = cut(random_model, tmp_path)
    for lr in (0.5, 5.0):
        watched, part = Watched(), data(store_dir=tmp_path / "rounds", keep_rounds=0)
        run = trainer(tmp_path / f"resumed-{lr}", watched)
        run.fit(module(random_model, lr=lr), datamodule=part, ckpt_path=last, weights_only=True)
        for kept in watched.rounds[1].kept:
            now = naive_logprobs(watched.models[1], kept.judged.solution)
            assert torch.allclose(kept.trainer_logprobs, now, atol=1e-4)
            assert kept.judged.solution.policy_version == 0


def test_stored_weights_go_when_their_round_is_sampled_and_the_rounds_before_it_stay(random_model, tmp_path):
    """Of two rounds that are kept besides the one that is sampled ahead, the older one serves older checkpoints."""
    part = data(Endless(3), store_dir=tmp_path / "rounds", keep_rounds=2)
    trainer(tmp_path).fit(module(random_model), datamodule=part)
    assert sorted(p.name for p in (tmp_path / "rounds").glob("round_*")) == [
        "round_000001",
        "round_000002",
        "round_000003",
    ]
    assert [p.parent.name for p in (tmp_path / "rounds").rglob("weights.safetensors")] == ["round_000003"]


@pytest.mark.parametrize(("before", "after", "versions"), [("ahead", "serial", [0, 4]), ("serial", "ahead", [2, 3])])
def test_a_run_can_be_resumed_with_another_schedule(random_model, tmp_path, before, after, versions):
    """The round that it is at is trained on to its end."""
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    run = trainer(tmp_path / "cut", checkpoint, enable_checkpointing=True, max_steps=3)
    run.fit(module(random_model), datamodule=data(schedule=before))
    timeline, watched = Timeline(), Watched()
    second = trainer(tmp_path / "resumed", watched)
    part = data(NotedEngine(timeline), schedule=after, correction="token_truncate")
    last = tmp_path / "ckpt" / "last.ckpt"
    second.fit(module(random_model, timeline), datamodule=part, ckpt_path=last, weights_only=True)
    assert second.global_step == 6
    assert 1 not in timeline.sampled_with
    assert [r.policy_version for r in watched.rounds] == versions
    assert watched.positions == [1, 0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": HFEngine()}, "needs an engine that samples from its own copy .* HFEngine does not"),
        ({"dynamic_sampling": DynamicSampling()}, "cannot be combined with data.dynamic_sampling"),
        ({"judge": GenerativeJudge(LocalChat("policy"))}, "cannot be combined with a policy that judges itself"),
        ({"evidence": MonteCarloContinuations(samples=2)}, "cannot be combined with evidence that is sampled"),
    ],
)
def test_what_needs_other_weights_than_are_there_is_refused(settings, message):
    with pytest.raises(ConfigError, match=f"data.schedule ahead {message}.*Change that, or take data.schedule serial"):
        data(**settings)
