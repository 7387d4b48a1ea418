"""Pipelined rounds: the trainer begins before a round is whole, and nothing but that differs from a serial run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_tpgrpo.callbacks import CapabilityEstimator, MathEvaluation, RoundCallback, SafeCheckpoint
from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.credit.batch.std_scaling import StdScaling
from lit_tpgrpo.credit.filters.prof import PROFFilter
from lit_tpgrpo.credit.reward_kl import TokenRewardKL
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules import MathRolloutDataModule, background_factory, round_factory
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError, EmptyRoundError
from lit_tpgrpo.judges.evidence import ImplicitRewards, LabelScores, MonteCarloContinuations
from lit_tpgrpo.judges.generative import GenerativeJudge
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.report.metrics import read_metrics, rounds
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.checkpoints import usable_checkpoint
from tests.callbacks.looks import Looks
from tests.datamodules.concurrent_runs import (
    ROUND_OF_SEED,
    Timeline,
    Watched,
    data,
    digest,
    luck,  # noqa: F401  a fixture
    naive_logprobs,
    nobody_works,
    trainer,
    weights,
)
from tests.rollout.own_weights import OwnWeights


class Steps(Timeline):
    """Also says which steps of a round the trainer has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, list[list[int]]]] = []  # (round, completions) of each step


class InOrder(OwnWeights):
    """Samples one group after another, as a server does that takes them so: not those with the longest prompts first."""

    def __init__(self) -> None:
        super().__init__(batch_size=4)

    def sample(self, prompts, n, params, seeds):
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            for _, completions in super().sample([prompt], n, params, [seed]):
                yield number, completions


class SlowEngine(InOrder):
    """Says with which weights it samples; ends a round of six groups only when the first step on it has been taken."""

    def __init__(self, steps: Steps, slow: bool = True) -> None:
        super().__init__()
        self.steps, self.slow = steps, slow

    def sample(self, prompts, n, params, seeds):
        index = ROUND_OF_SEED.get(seeds[0]) if len(seeds) else None
        for number, completions in super().sample(prompts, n, params, seeds):
            assert self._policy is not None
            with_ = digest(self._policy.policy_model)
            if index is None:
                self.steps.evaluated_with.append(with_)
            else:
                self.steps.sampled_with.setdefault(index, set()).add(with_)
                if self.slow and number == 4 and len(prompts) == 6:
                    self.steps.wait_for("trained", index)
            yield number, completions
        if index is not None:
            self.steps.done["sampled", index].set()


class SteppingModule(TPGRPOModule):
    """Notes its batches. With ``last`` it begins with a round when all of it is sampled."""

    steps: Steps
    last = False

    def training_step(self, batch, batch_idx):
        index = batch.round_index
        self.steps.trained_from.setdefault(index, digest(self.policy_model))
        self.steps.batches.append((index, [s.completion_ids.tolist() for s in batch.sequences]))
        if self.last:
            self.steps.wait_for("sampled", index)
        super().training_step(batch, batch_idx)
        self.steps.done["trained", index].set()


def pipelined(engine: HFEngine | None = None, **kwargs: Any) -> MathRolloutDataModule:
    """Two rounds of six problems, three steps of two problems each."""
    return data(engine or InOrder(), **({"schedule": "pipelined", "steps_per_round": 3} | kwargs))


def module(
    model: str, steps: Steps | None = None, lr: float = 0.5, last: bool = False, adapter: LoRA | None = None
) -> SteppingModule:
    torch.manual_seed(0)
    built = SteppingModule(model, optimizer=lambda p: torch.optim.SGD(p, lr=lr), adapter=adapter)
    built.steps, built.last = steps or Steps(), last
    return built


@dataclass(frozen=True)
class Ended:
    weights: torch.Tensor
    steps: Steps
    watched: Watched


def run(model: str, folder: Path, part: MathRolloutDataModule, steps: Steps | None = None, **kwargs: Any) -> Ended:
    steps, watched = steps or Steps(), Watched()
    trained = module(model, steps, **kwargs)
    trainer(folder, watched).fit(trained, datamodule=part)
    assert nobody_works()
    return Ended(weights(trained), steps, watched)


def test_a_step_begins_before_its_round_is_whole_and_batches_and_weights_are_those_of_a_serial_run(
    random_model, tmp_path
):
    serial = run(random_model, tmp_path / "serial", pipelined(schedule="serial", step_sizes="full"))
    for name, slow, last in (("engine", True, False), ("trainer", False, True)):
        steps = Steps()
        made = run(random_model, tmp_path / name, pipelined(SlowEngine(steps, slow)), steps, last=last)
        assert torch.equal(made.weights, serial.weights)
        assert made.steps.batches == serial.steps.batches
        assert [index for index, _ in steps.batches] == [0, 0, 0, 1, 1, 1]
        assert steps.sampled_with == {index: {with_} for index, with_ in steps.trained_from.items()}
        assert len(set(steps.trained_from.values())) == 2
        assert [(r.policy_version, r.trained_from) for r in made.watched.rounds] == [(0, None), (3, None)]
        # A step is known when half a step beyond it is there: the first with four groups, the others with six.
        assert made.watched.hooks == [("start", 0, 0), ("end", 0, 1), ("start", 1, 3), ("end", 1, 4)]
        (logged,) = (tmp_path / name).rglob("metrics.csv")
        table = read_metrics(logged.parent)
        assert (table["round_step"].steps, table["round_step"].values) == ((1, 4), (0.0, 3.0))
        assert [(r.index, r.step) for r in rounds(table)] == [(0, 0), (1, 3)]
        timeless = [
            {k: v for k, v in r.metrics.items() if not k.endswith(("seconds", "per_s"))} for r in made.watched.rounds
        ]
        assert timeless == [
            {k: v for k, v in r.metrics.items() if not k.endswith(("seconds", "per_s"))} for r in serial.watched.rounds
        ]
        for ours, theirs in zip(made.watched.rounds, serial.watched.rounds, strict=True):
            assert ours.metrics["pipelined/wait_seconds"] > 0
            assert ours.kept_indices == theirs.kept_indices == tuple(range(24))
            assert ours.groups == theirs.groups


def two_of_four(solution: Any) -> bool:
    return solution.judged.solution.sample < 2


@pytest.mark.parametrize(("name", "sizes"), [(None, [6, 6]), ("even", [6, 6]), ("full", [8, 4])])
def test_the_steps_of_other_schedules_are_even_unless_they_are_to_be_full(random_model, tmp_path, name, sizes):
    """Twelve kept solutions, at eight a step."""
    part = pipelined(schedule="serial", step_sizes=name, keep=two_of_four, steps_per_epoch=2)
    made = run(random_model, tmp_path, part)
    assert [len(batch) for _, batch in made.steps.batches] == sizes


@pytest.mark.parametrize("adapter", [None, LoRA(4, 6.0)], ids=["all weights", "adapter"])
def test_old_log_probs_are_of_the_weights_that_sampled_though_the_trainer_has_gone_on(random_model, tmp_path, adapter):
    steps = Steps()
    serial = run(
        random_model,
        tmp_path / "serial",
        pipelined(schedule="serial", step_sizes="full", correction="token_truncate"),
        lr=20.0,
        adapter=adapter,
    )
    part = pipelined(SlowEngine(steps), correction="token_truncate", store_dir=tmp_path / "rounds")
    made = run(random_model, tmp_path / "made", part, steps, lr=20.0, adapter=adapter)
    assert torch.allclose(made.weights, serial.weights, atol=1e-5)
    assert [hook for hook in made.watched.hooks if hook[0] == "end"] == [("end", 0, 1), ("end", 1, 4)]
    moved = 0.0
    for ours, theirs, now in zip(made.watched.rounds, serial.watched.rounds, made.watched.models, strict=True):
        assert ours.metrics["mismatch/unscored"] == 0
        for kept, expected in zip(ours.kept, theirs.kept, strict=True):
            assert kept.trainer_logprobs is not None
            assert torch.allclose(kept.trainer_logprobs, expected.trainer_logprobs, atol=1e-5)
            assert torch.allclose(kept.trainer_logprobs, torch.tensor(kept.judged.solution.logprobs), atol=1e-4)
            gone_on = naive_logprobs(now, kept.judged.solution)
            moved = max(moved, float((kept.trainer_logprobs - gone_on).abs().max()))
    assert moved > 0.1
    assert not list((tmp_path / "rounds").rglob("*.safetensors"))


class Mismatched(SlowEngine):
    mismatched = True


def test_a_kl_term_in_the_reward_is_of_the_weights_that_sampled(random_model, tmp_path):
    ends = []
    for name in ("serial", "pipelined"):
        steps = Steps()
        settings = {"schedule": name, "step_sizes": "full", "credit": TokenRewardKL(ThoughtCredit(), 0.1)}
        part = pipelined(Mismatched(steps, slow=name == "pipelined"), **settings)
        ends.append(run(random_model, tmp_path / name, part, steps, lr=20.0))
    for ours, theirs in zip(ends[1].watched.rounds, ends[0].watched.rounds, strict=True):
        assert ours.metrics["credit/reward_kl"] == pytest.approx(theirs.metrics["credit/reward_kl"], rel=1e-4)
    assert abs(ends[1].watched.rounds[1].metrics["credit/reward_kl"]) > 1e-3
    assert torch.allclose(ends[0].weights, ends[1].weights, atol=1e-4)


class StopAfter(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step == self.step


class EndlessFrom(InOrder):
    """Samples five groups of round ``index`` and never the sixth, and looks whether it is to stop."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index, self.begun = index, threading.Event()
        self.while_waiting: Callable[[], None] = lambda: None

    def sample(self, prompts, n, params, seeds):
        for number, completions in super().sample(prompts, n, params, seeds):
            if number == 5 and ROUND_OF_SEED.get(seeds[0], 0) >= self.index:
                self.begun.set()
                while True:
                    self.while_waiting()
                    threading.Event().wait(0.01)
            yield number, completions


def estimator() -> CapabilityEstimator:
    return CapabilityEstimator(0.5, "uncertainty")


@pytest.mark.parametrize("correction", ["off", "token_truncate"])
@pytest.mark.parametrize(("stop", "endless"), [(1, 0), (1, None), (2, None), (3, None), (4, 1), (5, None)])
def test_a_resumed_run_ends_with_the_same_weights(random_model, tmp_path, stop, endless, correction):
    """Interrupted after a step of round 0 or 1 that is not whole (``endless``), whole, or just trained on (3)."""
    whole = module(random_model)
    trainer(tmp_path / "whole", estimator()).fit(whole, datamodule=pipelined(correction=correction))
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    cut = trainer(tmp_path / "cut", checkpoint, estimator(), StopAfter(stop), enable_checkpointing=True)
    engine = InOrder() if endless is None else EndlessFrom(endless)
    cut.fit(module(random_model), datamodule=pipelined(engine, correction=correction))
    assert cut.global_step == stop
    steps, watched = Steps(), Watched()
    resumed, again = module(random_model, steps), trainer(tmp_path / "resumed", watched, estimator())
    part = pipelined(SlowEngine(steps, slow=False), correction=correction)
    last = tmp_path / "ckpt" / "last.ckpt"
    again.fit(resumed, datamodule=part, ckpt_path=last, weights_only=True)
    assert again.global_step == 6
    assert torch.equal(weights(resumed), weights(whole))
    assert watched.hooks[0] == (("start", 1, 3) if stop == 3 else ("resume", stop // 3, stop))
    if endless is not None:
        assert steps.sampled_with[endless] == {whole.steps.trained_from[endless]}
    assert watched.positions[0] == stop % 3


def test_an_evaluation_in_mid_round_waits_and_takes_the_weights_of_its_step(random_model, tmp_path):
    alone = run(random_model, tmp_path / "alone", pipelined())
    steps = Steps()
    evaluated = module(random_model, steps)
    val = ArithmeticProblems("1", n=2, split="heldout")
    part = pipelined(SlowEngine(steps, slow=False), val=val, eval_samples=1)
    trainer(tmp_path / "evaluated", MathEvaluation(), val_check_interval=1).fit(evaluated, datamodule=part)
    assert torch.equal(alone.weights, weights(evaluated))
    assert steps.sampled_with == {index: {with_} for index, with_ in steps.trained_from.items()}
    with_ = steps.evaluated_with[::2]
    assert with_ == steps.evaluated_with[1::2]
    assert len(set(with_)) == 7  # before the first step and after each
    assert [with_[0], with_[3]] == list(steps.trained_from.values())


def test_a_round_that_an_evaluation_stopped_goes_on_with_its_own_weights(random_model, tmp_path, monkeypatch):
    """The time was over when the evaluation asked, and the run went on nevertheless."""
    alone = run(random_model, tmp_path / "alone", pipelined())
    over, steps = {"at": 1}, Steps()
    monkeypatch.setattr(background_factory, "is_out_of_time", lambda trainer: trainer.global_step == over["at"])
    evaluated, val = module(random_model, steps), ArithmeticProblems("1", n=2, split="heldout")
    part = pipelined(EndlessOnce(steps), val=val, eval_samples=1)
    trainer(tmp_path / "evaluated", MathEvaluation(), val_check_interval=1).fit(evaluated, datamodule=part)
    assert torch.equal(alone.weights, weights(evaluated))
    assert steps.sampled_with == {index: {with_} for index, with_ in steps.trained_from.items()}


class EndlessOnce(SlowEngine):
    """Does not get to the sixth group of round 0 until it is stopped once."""

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps, slow=False)
        self.while_waiting: Callable[[], None] = lambda: None

    def sample(self, prompts, n, params, seeds):
        for number, item in super().sample(prompts, n, params, seeds):
            while number == 5 and ROUND_OF_SEED.get(seeds[0]) == 0:
                self.while_waiting()
                threading.Event().wait(0.01)
            yield number, item


def test_a_run_whose_time_is_over_while_it_waits_ends_and_goes_on_from_there(random_model, tmp_path, monkeypatch):
    whole = run(random_model, tmp_path / "whole", pipelined())
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    first, engine = trainer(tmp_path / "cut", checkpoint, enable_checkpointing=True), EndlessFrom(0)
    with monkeypatch.context() as patch:
        patch.setattr(
            round_factory, "is_out_of_time", lambda trainer: trainer.global_step == 1 and engine.begun.is_set()
        )
        first.fit(module(random_model), datamodule=pipelined(engine))
    assert first.global_step == 1
    assert nobody_works()
    resumed, watched = module(random_model), Watched()
    last = tmp_path / "ckpt" / "last.ckpt"
    trainer(tmp_path / "resumed", watched).fit(resumed, datamodule=pipelined(), ckpt_path=last, weights_only=True)
    assert torch.equal(weights(resumed), whole.weights)
    assert watched.hooks[:2] == [("resume", 0, 1), ("end", 0, 1)]


def test_the_end_of_a_run_does_not_wait_for_the_rest_of_a_round(random_model, tmp_path):
    part = pipelined(EndlessFrom(1), val=ArithmeticProblems("1", n=2, split="heldout"), eval_samples=1)
    ended = trainer(tmp_path, MathEvaluation(), max_steps=4)
    ended.fit(module(random_model), datamodule=part)
    assert ended.global_step == 4
    assert "eval/avg@1" in ended.callback_metrics
    assert nobody_works()


class Breaks(RuleJudge):
    """Fails at the first solution of the sixth group."""

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def judge_arriving(self, cases):
        for i, case in enumerate(cases):
            self.met += 1
            if self.met > 20:
                raise RuntimeError("the judge broke")
            yield from ((i, verdict) for _, verdict in super().judge_arriving([case]))


def test_an_error_in_the_background_ends_the_run_where_the_trainer_waits_for_what_failed(random_model, tmp_path):
    steps = Steps()
    with pytest.raises(RuntimeError, match="the judge broke"):
        trainer(tmp_path).fit(module(random_model, steps), datamodule=pipelined(judge=Breaks()))
    assert [index for index, _ in steps.batches] == [0]
    assert nobody_works()


def nothing(_: object) -> bool:
    return False


def test_rounds_without_anything_to_train_on_end_the_run(random_model, tmp_path):
    steps = Steps()
    part = pipelined(SlowEngine(steps, slow=False), keep=nothing, max_empty_rounds=2)
    with pytest.raises(EmptyRoundError, match="2 rounds in a row left nothing to train on"):
        trainer(tmp_path).fit(module(random_model), datamodule=part)
    assert list(steps.sampled_with) == [0, 1]


def only_late(solution: Any) -> bool:
    """Keep what is right by luck alone: fewer than a step's worth in any part."""
    return solution.judged.solution.sample == 0


def test_a_step_is_cut_from_as_many_groups_as_it_takes(random_model, tmp_path):
    """One solution of each group is kept: six a round, of which a step of eight is one."""
    made = run(random_model, tmp_path / "made", pipelined(keep=only_late, steps_per_epoch=2))
    assert [(index, len(batch)) for index, batch in made.steps.batches] == [(0, 6), (1, 6)]


@pytest.mark.parametrize(
    ("before", "after", "versions"),
    [("pipelined", "serial", [0, 2, 4]), ("pipelined", "ahead", [0, 1, 2]), ("streamed", "pipelined", [0, 2, 4])],
)
def test_a_run_can_be_resumed_with_another_schedule(random_model, tmp_path, before, after, versions):
    """The round that it is at is trained on to its end, in the steps into which it was cut."""
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    first = trainer(tmp_path / "cut", checkpoint, StopAfter(1), enable_checkpointing=True)
    first.fit(module(random_model), datamodule=pipelined(schedule=before, keep=two_of_four))
    steps, watched = Steps(), Watched()
    second = trainer(tmp_path / "resumed", watched)
    part = pipelined(SlowEngine(steps, slow=False), schedule=after, correction="token_truncate", keep=two_of_four)
    last = tmp_path / "ckpt" / "last.ckpt"
    second.fit(module(random_model, steps), datamodule=part, ckpt_path=last, weights_only=True)
    assert [r.policy_version for r in watched.rounds] == versions
    assert watched.positions[0] == 1
    sizes = [len(batch) for index, batch in steps.batches if index == 0]
    assert sizes == [4] if before == "pipelined" else [6]


def test_a_serial_run_samples_a_round_again_that_a_pipelined_one_did_not_end(random_model, tmp_path, caplog):
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    first = trainer(tmp_path / "cut", checkpoint, StopAfter(1), enable_checkpointing=True)
    first.fit(module(random_model), datamodule=pipelined(EndlessFrom(0)))
    watched, last = Watched(), tmp_path / "ckpt" / "last.ckpt"
    part = pipelined(schedule="serial", step_sizes="full")
    trainer(tmp_path / "resumed", watched).fit(module(random_model), datamodule=part, ckpt_path=last, weights_only=True)
    assert "round 0 was sampled at step 0 and is not whole on disk any more" in caplog.text
    assert [r.policy_version for r in watched.rounds] == [1, 4]
    assert watched.positions[0] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": HFEngine()}, "needs an engine that samples from its own copy .* HFEngine does not"),
        ({"dynamic_sampling": DynamicSampling()}, "cannot be combined with data.dynamic_sampling"),
        ({"judge": GenerativeJudge(LocalChat("policy"))}, "cannot be combined with a policy that judges itself"),
        ({"evidence": MonteCarloContinuations(samples=2)}, "cannot be combined with evidence that is sampled"),
        ({"step_sizes": "even"}, "cannot be combined with data.step_sizes even"),
        (
            {"group_filter": PROFFilter(2), "evidence": LabelScores()},
            "cannot be combined with data.group_filter, which needs the whole",
        ),
        ({"batch_stage": StdScaling()}, "cannot be combined with data.batch_stage, which needs the whole round"),
        (
            {"evidence": ImplicitRewards("unused")},
            "cannot be combined with ImplicitRewards, which learns from the whole round",
        ),
        (
            {"sampling": SamplingParams(top_p=0.9), "correction": "token_truncate"},
            "cannot be combined with top_p or top_k of data.sampling where log-probs are corrected",
        ),
    ],
)
def test_what_needs_the_whole_round_or_other_weights_is_refused(settings, message):
    with pytest.raises(ConfigError, match=f"data.schedule pipelined {message}.*or take data.schedule streamed"):
        pipelined(**settings)


@pytest.mark.parametrize("monitor", ["evidence/implicit_loss", "mismatch/kl"])
@pytest.mark.parametrize("schedule", ["pipelined", "ahead"])
def test_a_best_checkpoint_by_what_only_some_rounds_measure_is_refused(random_model, tmp_path, schedule, monitor):
    part = pipelined(schedule=schedule, correction="token_truncate")
    best = SafeCheckpoint(dirpath=tmp_path / "best", monitor=monitor, mode="max")
    with pytest.raises(ConfigError, match=f"SafeCheckpoint monitors {monitor} .* data.schedule {schedule} the"):
        trainer(tmp_path, best, enable_checkpointing=True).fit(module(random_model), datamodule=part)


@pytest.mark.parametrize("schedule", ["pipelined", "ahead"])
def test_a_best_checkpoint_by_a_rounds_value_is_refused_before_anything_is_sampled(random_model, tmp_path, schedule):
    """Its weights are gone when the value is there. By a validation's value it is saved."""
    engine = InOrder()
    part = pipelined(engine, schedule=schedule, val=ArithmeticProblems("1", n=2, split="heldout"), eval_samples=1)
    best = SafeCheckpoint(dirpath=tmp_path / "best", monitor="rollout/accuracy", mode="max")
    with pytest.raises(ConfigError, match=f"SafeCheckpoint monitors rollout/accuracy .* data.schedule {schedule} the"):
        trainer(tmp_path / "refused", best, enable_checkpointing=True).fit(module(random_model), datamodule=part)
    assert engine._policy is None
    best = SafeCheckpoint(dirpath=tmp_path / "best", monitor="eval/avg@1", mode="max")
    callbacks = (best, MathEvaluation())
    trainer(tmp_path, *callbacks, enable_checkpointing=True, max_steps=3, val_check_interval=3).fit(
        module(random_model), datamodule=part
    )
    assert Path(best.best_model_path).exists()


class RaisesAtTheEnd(RoundCallback):
    def on_round_end(self, trainer, pl_module, round_):
        raise OSError("the logger is gone")


def test_a_checkpoint_of_a_run_that_fails_while_a_round_is_reported_has_the_rest_of_the_round(random_model, tmp_path):
    whole = run(random_model, tmp_path / "whole", pipelined())
    saving = SafeCheckpoint(dirpath=tmp_path / "ckpt")
    failing = trainer(tmp_path / "cut", saving, RaisesAtTheEnd(), enable_checkpointing=True)
    steps = Steps()
    part = pipelined(SlowEngine(steps), store_dir=tmp_path / "rounds")
    with pytest.raises(OSError, match="the logger is gone"):
        failing.fit(module(random_model, steps), datamodule=part)
    assert failing.global_step == 1
    resumed = module(random_model)
    last, part = usable_checkpoint(tmp_path / "ckpt"), pipelined(store_dir=tmp_path / "rounds")
    trainer(tmp_path / "resumed").fit(resumed, datamodule=part, ckpt_path=last, weights_only=True)
    assert torch.equal(weights(resumed), whole.weights)


def test_monitors_look_at_a_round_once_also_in_resumed_runs(random_model, tmp_path):
    """Resumed from before and from after the round was reported, which is between steps 1 and 2."""
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1)
    first, looks = (
        trainer(tmp_path / "cut", checkpoint, StopAfter(2), whole := Looks(patience=9), enable_checkpointing=True),
        [],
    )
    first.fit(module(random_model), datamodule=pipelined(store_dir=tmp_path / "rounds"))
    assert whole.looks == [1]
    for step in (1, 2):
        again, part = Looks(patience=9), pipelined(store_dir=tmp_path / "rounds", keep_rounds=0)
        path = tmp_path / "ckpt" / f"epoch=0-step={step}.ckpt"
        second = trainer(tmp_path / f"resumed-{step}", again)
        second.fit(module(random_model), datamodule=part, ckpt_path=path, weights_only=True)
        looks.append(again.looks)
    assert looks == [[1, 4], [4]]


def test_what_evaluations_verify_counts_as_in_a_serial_run(random_model, tmp_path):
    """With the next round, for the engine's turn, and so theirs, comes when this one has been sampled."""
    counted = []
    for name in ("serial", "pipelined"):
        watched = Watched()
        part = pipelined(schedule=name, step_sizes="full", val=ArithmeticProblems("1", n=4, split="heldout"))
        answering = replace(part.eval_sampling, max_new_tokens=40)
        part.eval_sampling = answering
        evaluating = trainer(tmp_path / name, watched, MathEvaluation(), val_check_interval=1)
        evaluating.fit(module(random_model), datamodule=part)
        counted.append([[v for k, v in r.metrics.items() if k.startswith("verify/")] for r in watched.rounds])
    assert counted[0] == counted[1]


@pytest.mark.parametrize(("after", "endless"), [("ahead", True), ("serial", False), ("streamed", False)])
def test_another_schedule_scores_the_rest_with_the_weights_beside_the_round(random_model, tmp_path, after, endless):
    """A round that is whole on disk, and for rounds ahead one that is not, of which a third is not scored."""
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    first = trainer(tmp_path / "cut", checkpoint, StopAfter(1), enable_checkpointing=True)
    engine = EndlessFrom(0) if endless else SlowEngine(steps := Steps(), slow=False)
    cut = module(random_model, None if endless else steps, lr=20.0, last=not endless)
    settings = {"correction": "token_truncate", "store_dir": tmp_path / "rounds"}
    first.fit(cut, datamodule=pipelined(engine, **settings))
    assert list((tmp_path / "rounds").rglob("weights.safetensors"))
    watched, last = Watched(), tmp_path / "ckpt" / "last.ckpt"
    part = pipelined(schedule=after, step_sizes="full", **settings)
    again = trainer(tmp_path / "resumed", watched, max_steps=2)
    again.fit(module(random_model, lr=20.0), datamodule=part, ckpt_path=last, weights_only=True)
    made = watched.rounds[0]
    assert (made.index, made.policy_version, made.metrics["mismatch/unscored"]) == (0, 0, 0.0)
    for kept in made.kept:
        assert torch.allclose(kept.trainer_logprobs, torch.tensor(kept.judged.solution.logprobs), atol=1e-4)
    assert not list((tmp_path / "rounds" / "round_000000").rglob("*.safetensors"))
