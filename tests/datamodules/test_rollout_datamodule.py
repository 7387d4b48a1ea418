"""Rounds are made with the policy of the moment, survive a restart, and what cannot work says why."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_tpgrpo.callbacks import CapabilityEstimator, MathEvaluation, RoundCallback
from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.credit import ThoughtCredit
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.engines.vllm import VLLMServer
from lit_tpgrpo.errors import ConfigError, EmptyRoundError, InputError, NonFiniteLossError, StorageError
from lit_tpgrpo.judges import RuleJudge
from lit_tpgrpo.judges.generative import GenerativeJudge
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Outcome, Problem, Round
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.datamodules.scored_runs import LuckyByTurns
from tests.rollout.stored_rounds import rewrite_groups


class LuckyAtTimes(MathVerifier):
    """Three groups in four are all wrong."""

    def verify_all(self, pairs):
        return [Outcome.CORRECT if i % 16 == 0 else Outcome.INCORRECT for i, _ in enumerate(pairs)]


class Recorder(RoundCallback):
    """What happened when."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int]] = []
        self.rounds: list[Round] = []
        self.groups = 0

    def on_round_start(self, trainer, pl_module, round_index):
        self.starts.append((round_index, trainer.global_step))

    def on_group_judged(self, trainer, pl_module, group):
        self.groups += 1

    def on_round_end(self, trainer, pl_module, made):
        self.rounds.append(made)


class CountingEngine(HFEngine):
    """Counts what is sampled."""

    sampled = 0

    def sample(self, prompts, n, params, seeds):
        self.sampled += len(prompts) * n
        yield from super().sample(prompts, n, params, seeds)


def data(**kwargs) -> MathRolloutDataModule:
    settings = {
        "train": ArithmeticProblems("1", n=64),
        "verifier": LuckyByTurns(),
        "engine": CountingEngine(),
        "group_size": 4,
        "problems_per_step": 2,
        "steps_per_round": 2,
        "steps_per_epoch": 6,
        "keep": "all",
        "sampling": SamplingParams(max_new_tokens=12),
        "prompt_template": "{problem}",
        "progress": False,
    }
    return MathRolloutDataModule(**(settings | kwargs))


class Empty:
    """False in a condition, as any object of the user's with ``__len__`` 0."""

    def __len__(self) -> int:
        return 0


class EmptyEngine(Empty, HFEngine): ...


class EmptyVerifier(Empty, MathVerifier): ...


class EmptyJudge(Empty, RuleJudge): ...


class EmptyCredit(Empty, ThoughtCredit): ...


class EmptyProblems(Empty, ArithmeticProblems): ...


def test_only_none_gets_the_default():
    parts = {"engine": EmptyEngine(), "verifier": EmptyVerifier(), "judge": EmptyJudge(), "credit": EmptyCredit()}
    val, empty = ArithmeticProblems("1", n=4), EmptyProblems("1", n=4)
    datamodule = data(**parts, val=val, test=empty, predict=empty)
    assert all(getattr(datamodule, name) is part for name, part in parts.items())
    assert datamodule.sources["test"] is empty
    assert datamodule.sources["predict"] is empty
    defaults = data(val=val)
    assert defaults.sources["test"] is val
    assert defaults.sources["predict"] is val


def trainer(tmp_path: Path, *callbacks: L.Callback, **kwargs) -> L.Trainer:
    settings = {"max_epochs": 1, "logger": CSVLogger(tmp_path), "enable_checkpointing": False} | kwargs
    return L.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **settings,
    )


def module(random_model: str) -> TPGRPOModule:
    torch.manual_seed(0)
    return TPGRPOModule(random_model, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))


def weights(m: TPGRPOModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in m.policy_model.parameters()])


def test_rounds_are_made_when_needed_by_the_policy_of_that_moment(random_model, tmp_path):
    recorder = Recorder()
    run = trainer(tmp_path, recorder)
    run.fit(module(random_model), datamodule=data())
    assert recorder.starts == [(0, 0), (1, 2), (2, 4)]
    assert [r.policy_version for r in recorder.rounds] == [0, 2, 4]
    assert recorder.groups == 3 * 4
    assert {s.policy_version for g in recorder.rounds[2].groups for j in g.solutions for s in [j.solution]} == {4}
    assert run.global_step == 6
    uids = [g.problem.uid for r in recorder.rounds for g in r.groups]
    assert len(set(uids)) == 12
    # Right solutions outweigh wrong ones here by the group's own statistics, so advantages are +-, never all zero.
    assert all(bool(s.advantages.any()) for s in recorder.rounds[0].credited)


def test_replies_that_cannot_be_stored_end_the_run_before_anything_is_sampled(random_model, tmp_path):
    (tmp_path / "file").write_text("")
    judge = GenerativeJudge(OpenAIChat("judge", "http://127.0.0.1:1/v1"), store=tmp_path / "file" / "replies")
    part = data(judge=judge)
    with pytest.raises(
        StorageError, match=r"the judge's replies cannot be written to .*file/replies \(Not a directory\)"
    ):
        trainer(tmp_path).fit(module(random_model), datamodule=part)
    assert part.engine.sampled == 0


def test_sampler_and_trainer_agree_in_every_round(random_model, tmp_path):
    run = trainer(tmp_path)
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch.policy_version == trainer.global_step - 1:
                seen.append(float(trainer.callback_metrics["mismatch/logprob_max"]))

    run.callbacks.append(Watch())
    run.fit(module(random_model), datamodule=data(sampling=SamplingParams(12, temperature=0.7)))
    assert len(seen) == 3
    assert max(seen) < 1e-4


def test_the_same_seed_gives_the_same_run_twice_and_another_seed_another(random_model, tmp_path):
    results = []
    for seed in (5, 5, 6):
        m = module(random_model)
        trainer(tmp_path / f"{len(results)}").fit(m, datamodule=data(seed=seed))
        results.append(weights(m))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_streamed_run_is_the_serial_one_bit_for_bit(random_model, tmp_path):
    found = []
    for schedule in ("serial", "streamed"):
        m, recorder = module(random_model), Recorder()
        trainer(tmp_path / schedule, recorder).fit(m, datamodule=data(schedule=schedule))
        found.append((weights(m), recorder))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].starts == found[1][1].starts
    assert found[0][1].groups == found[1][1].groups


def test_a_policy_that_judges_itself_has_an_engine_of_its_own_in_a_streamed_round():
    """The other one is at work."""
    for schedule, shared in (("serial", True), ("streamed", False)):
        engine, chat = HFEngine(batch_size=3), LocalChat("policy")
        data(engine=engine, judge=GenerativeJudge(chat), schedule=schedule)
        assert (chat.engine is engine) is shared


def test_a_schedule_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="schedule: expected serial, streamed, pipelined or ahead, got 'sideways'"):
        data(schedule="sideways")


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_resumed_run_ends_with_the_same_weights_and_samples_nothing_twice(random_model, tmp_path, stop):
    """Interrupted in the middle (1, 3) or at the end (2, 4) of a round."""
    whole = module(random_model)
    trainer(tmp_path / "whole", CapabilityEstimator(momentum=0.5)).fit(whole, datamodule=data())

    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True)
    first = trainer(
        tmp_path / "cut", checkpoint, CapabilityEstimator(momentum=0.5), enable_checkpointing=True, max_steps=stop
    )
    first.fit(module(random_model), datamodule=data())

    resumed, again = module(random_model), data()
    recorder = Recorder()
    second = trainer(tmp_path / "resumed", recorder, CapabilityEstimator(momentum=0.5))
    second.fit(resumed, datamodule=again, ckpt_path=tmp_path / "ckpt" / "last.ckpt", weights_only=True)
    assert second.global_step == 6
    assert torch.equal(weights(resumed), weights(whole))
    rounds_sampled = 3 - math.ceil(stop / 2)
    assert again.engine.sampled == rounds_sampled * 2 * 2 * 4  # pyright: ignore
    assert [r for r, _ in recorder.starts] == list(range(3))[3 - rounds_sampled :]


class Interrupted(RuntimeError):
    """A crash of ours."""


class CrashingEngine(CountingEngine):
    """Gives out after so many prompts in all, once."""

    left = 6

    def sample(self, prompts, n, params, seeds):
        for item in super().sample(prompts, n, params, seeds):
            if self.left == 0:
                raise Interrupted
            self.left -= 1
            yield item


def test_a_crash_while_a_round_is_made_leaves_a_state_that_goes_on_from_there(random_model, tmp_path):
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=100, save_on_exception=True)
    crashing = data(
        engine=CrashingEngine(batch_size=4)
    )  # one prompt a batch: round 1 breaks off after two groups of four
    with pytest.raises(Interrupted):
        trainer(tmp_path / "cut", checkpoint, enable_checkpointing=True).fit(module(random_model), datamodule=crashing)
    with pytest.raises(RuntimeError, match="before load_weights"):  # the parts were closed on the way out
        list(HFEngine.sample(crashing.engine, [[1]], 1, SamplingParams(4), [0]))  # pyright: ignore
    (saved,) = (tmp_path / "ckpt").glob("*.ckpt")
    resumed, again, recorder = module(random_model), data(engine=CountingEngine(batch_size=4)), Recorder()
    second = trainer(tmp_path / "resumed", recorder)
    second.fit(resumed, datamodule=again, ckpt_path=saved, weights_only=True)
    assert recorder.starts == [(1, 2), (2, 4)]
    assert again.engine.sampled == (2 + 4) * 4  # pyright: ignore  # two groups of round 1, all of round 2
    assert second.global_step == 6


class PoisonedModule(TPGRPOModule):
    """Its loss is NaN at one step."""

    poisoned = True

    def _loss(self, *args):
        loss, sums = super()._loss(*args)
        return (loss * math.nan if self.poisoned and self.policy_version == 1 else loss), sums


def test_after_a_nan_the_batch_is_trained_on_again_with_the_settings_given_then(random_model, tmp_path):
    whole = module(random_model)
    trainer(tmp_path / "whole").fit(whole, datamodule=data())

    def poisoned(lr: float) -> PoisonedModule:
        torch.manual_seed(0)
        return PoisonedModule(random_model, optimizer=lambda p: torch.optim.SGD(p, lr=lr))

    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=100, save_on_exception=True)
    with pytest.raises(NonFiniteLossError, match="optimizer step 2"):
        trainer(tmp_path / "cut", checkpoint, enable_checkpointing=True).fit(poisoned(0.5), datamodule=data())
    (saved,) = (tmp_path / "ckpt").glob("*.ckpt")
    for lr, same in ((0.5, True), (0.05, False)):
        resumed = poisoned(lr)
        resumed.poisoned = False
        run = trainer(tmp_path / f"resumed-{lr}")
        run.fit(resumed, datamodule=data(), ckpt_path=saved, weights_only=True)
        assert run.global_step == 6
        assert torch.equal(weights(resumed), weights(whole)) is same
        assert float(run.callback_metrics["train/lr"]) == pytest.approx(lr)


def test_runs_that_go_on_from_one_checkpoint_have_rounds_of_their_own(random_model, tmp_path):
    """Once the checkpoint decided where rounds are: two runs wrote over each other's, and the setting was ignored."""
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "parent" / "checkpoints", every_n_train_steps=1, save_top_k=-1)
    first, whole = data(), module(random_model)
    trainer(tmp_path, checkpoint, enable_checkpointing=True, logger=False).fit(whole, datamodule=first)
    saved = tmp_path / "parent" / "checkpoints" / "epoch=0-step=4.ckpt"
    parent = tmp_path / "version_0" / "rounds"
    before = {p: p.read_bytes() for p in parent.rglob("round_*/*")}
    places = [tmp_path / "version_1" / "rounds", tmp_path / "given", tmp_path / "version_3" / "rounds"]
    for number, group_index in enumerate(places):
        again, m = data(store_dir=str(group_index) if group_index.name == "given" else None), module(random_model)
        keeper = ModelCheckpoint(dirpath=tmp_path / "kept" / str(number), every_n_train_steps=1, save_top_k=-1)
        run = trainer(tmp_path, keeper, enable_checkpointing=True, logger=False)
        run.fit(m, datamodule=again, ckpt_path=saved, weights_only=True)
        assert again.engine.sampled == 0  # pyright: ignore
        assert torch.equal(weights(m), weights(whole))
        assert [p.name for p in group_index.glob("round_*")] == ["round_000002"]
        saved = tmp_path / "kept" / "0" / "epoch=0-step=5.ckpt"  # the others go on from this one's
        state = torch.load(tmp_path / "kept" / str(number) / "epoch=0-step=6.ckpt", weights_only=True)[
            "MathRolloutDataModule"
        ]
        assert state["store_dir"] == str(group_index)
        assert state["inherited"][-1] == str(parent)
    assert {p: p.read_bytes() for p in parent.rglob("round_*/*")} == before


def test_a_runs_folder_is_its_own_while_it_lasts(random_model, tmp_path):
    class Second(RoundCallback):
        said = ""

        def on_round_end(self, trainer_, pl_module, made):
            with pytest.raises(ConfigError) as refused:
                trainer(tmp_path, logger=False).fit(module(random_model), datamodule=data(store_dir=str(store)))
            self.said = str(refused.value)

    store, second = tmp_path / "store", Second()
    trainer(tmp_path, second, logger=False, max_steps=1).fit(
        module(random_model), datamodule=data(store_dir=str(store))
    )
    assert second.said.startswith(f"{store} is in use by another run (process ")
    trainer(tmp_path, logger=False, max_steps=1).fit(module(random_model), datamodule=data(store_dir=str(store)))


def test_rollouts_of_another_run_are_not_taken_for_this_ones(random_model, tmp_path, caplog):
    """Same folder, same settings, same step numbers: the weights tell."""
    sampled = []
    for lr in (0.5, 0.5, 0.05):
        dm = data(store_dir=str(tmp_path / "store"))
        m = TPGRPOModule(random_model, optimizer=lambda p, lr=lr: torch.optim.SGD(p, lr=lr))
        trainer(tmp_path / str(len(sampled))).fit(m, datamodule=dm)
        sampled.append(dm.engine.sampled)  # pyright: ignore
    # keep_rounds 2 leaves rounds 1 and 2. The second run is the first once more; the third departs after step 1.
    assert sampled == [48, 16, 48]
    assert "round 1 on disk is invalid and is sampled again: weights changed" in caplog.text


def test_predict_samples_again_for_other_weights(random_model, tmp_path):
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=2, save_top_k=-1)
    trainer(tmp_path / "fit", checkpoint, enable_checkpointing=True).fit(module(random_model), datamodule=data())
    early, late = sorted((tmp_path / "ckpt").glob("*.ckpt"))[::2]
    texts, sampled, versions = [], [], []
    for path in (early, late, late):
        dm = data(predict=ArithmeticProblems("1", n=2), store_dir=str(tmp_path / "store"))
        m = module(random_model)
        trainer(tmp_path / "predict").predict(m, datamodule=dm, ckpt_path=path, weights_only=True)
        sampled.append(dm.engine.sampled)  # pyright: ignore
        versions.append(m.policy_version)
        texts.append(
            [p.read_text() for p in sorted((tmp_path / "store").rglob("predict/rank_0/round_*/solutions.*.jsonl"))]
        )
    assert sampled == [8, 8, 0]
    assert texts[0] != texts[1] == texts[2]
    assert versions == [2, 6, 6]


@pytest.mark.parametrize("lost", ["the round", "a solution"])
def test_a_round_that_is_not_whole_on_disk_any_more_is_sampled_again(random_model, tmp_path, caplog, lost):
    settings = {"keep_rounds": 2 if lost == "the round" else 0, "store_dir": str(tmp_path / "rounds")}
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1)
    trainer(tmp_path / "fit", checkpoint, enable_checkpointing=True).fit(
        module(random_model), datamodule=data(**settings)
    )
    if lost == "a solution":
        rewrite_groups(tmp_path / "rounds" / "round_000000", 4, lambda g, p, s: (p, s[:-1] if g == 1 else s))
    again, recorder = data(**settings), Recorder()
    run = trainer(tmp_path / "resumed", recorder)
    run.fit(
        module(random_model), datamodule=again, ckpt_path=tmp_path / "ckpt" / "epoch=0-step=1.ckpt", weights_only=True
    )
    assert "round 0 was sampled at step 0 and is not whole on disk any more (data.keep_rounds is" in caplog.text
    assert recorder.starts[0] == (0, 1)
    assert [r.policy_version for r in recorder.rounds] == [1, 3, 5]
    assert all(len(g.solutions) == 4 for r in recorder.rounds for g in r.groups)
    assert run.global_step == 6


@pytest.mark.parametrize(("keep", "left"), [(0, [0, 1, 2]), (1, [2]), (2, [1, 2])])
def test_the_newest_rounds_stay_on_disk(random_model, tmp_path, keep, left):
    trainer(tmp_path).fit(module(random_model), datamodule=data(keep_rounds=keep, store_dir=str(tmp_path / "store")))
    names = sorted(p.name for p in (tmp_path / "store").glob("round_*"))
    assert names == [f"round_{i:06d}" for i in left]


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_lower_precision_trains_and_leaves_sampled_logprobs_as_they_are(random_model, tmp_path, precision):
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.extend(t.dtype for s in batch.sequences for t in (s.old_logprobs, s.advantages))
            parameter = next(pl_module.policy_model.parameters())
            assert parameter.dtype is (torch.bfloat16 if precision == "bf16-true" else torch.float32)

    class Engine(HFEngine):
        def sample(self, prompts, n, params, seeds):
            autocast.append(torch.is_autocast_enabled("cpu"))
            yield from super().sample(prompts, n, params, seeds)

    autocast: list[bool] = []
    dm = data(
        val=ArithmeticProblems("1", n=2, split="heldout"),
        eval_samples=2,
        predict=ArithmeticProblems("1", n=2),
        engine=Engine(),
    )
    run = trainer(tmp_path, Watch(), MathEvaluation(), precision=precision, max_steps=2)
    m = module(random_model)
    run.fit(m, datamodule=dm)
    assert run.global_step == 2
    assert set(seen) == {torch.float32}
    # In one precision on both sides the sampler and the trainer differ by its rounding alone.
    assert float(run.callback_metrics["mismatch/logprob_max"]) < 0.1
    run.validate(m, datamodule=dm, verbose=False)
    run.predict(m, datamodule=dm)
    assert (
        autocast == [precision == "bf16-mixed"] * 4
    )  # evaluation, round, evaluation (which validate reads from disk), predict


def test_evaluation_may_sample_otherwise_than_training(random_model, tmp_path):
    dm, asked = (
        data(val=ArithmeticProblems("1", n=2, split="heldout"), eval_sampling=SamplingParams(5, temperature=0)),
        [],
    )
    original = dm.engine.sample

    def watch(prompts, n, params, seeds):
        asked.append((params.max_new_tokens, params.temperature))
        return original(prompts, n, params, seeds)

    dm.engine.sample = watch  # pyright: ignore
    trainer(tmp_path, MathEvaluation(), max_steps=2).fit(module(random_model), datamodule=dm)
    assert asked == [(5, 0), (12, 1.0), (5, 0)]


def test_a_capability_with_weights_draws_the_problems(random_model, tmp_path):
    class OnlyTheLast(CapabilityEstimator):
        def weights(self, uids):
            return [float(i >= len(uids) - 4) for i in range(len(uids))]

    recorder, source = Recorder(), ArithmeticProblems("1", n=64)
    trainer(tmp_path, recorder, OnlyTheLast(), max_steps=2).fit(module(random_model), datamodule=data(train=source))
    assert {g.problem.uid for r in recorder.rounds for g in r.groups} == {p.uid for p in source.load()[-4:]}


def test_a_policy_that_closes_no_think_block_is_warned_of(random_model, tmp_path):
    with pytest.warns(UserWarning, match=r"no solution of round 0 closes its think block"):
        trainer(tmp_path, max_steps=2).fit(module(random_model), datamodule=data(sampling=SamplingParams(2)))


def test_a_round_without_any_advantage_is_warned_of_though_all_of_it_is_kept(random_model, tmp_path):
    """As where ``data.rewards`` has a term of the user's alone, which says the same of all."""
    part = data(rewards={"mine": lambda case: 0.25}, keep="all")
    with pytest.warns(UserWarning, match=r"all advantages of round 0 are 0, .* same reward\. Look at reward/\*"):
        trainer(tmp_path, max_steps=1).fit(module(random_model), datamodule=part)
    part = data(rewards={"mine": lambda case: float(case.solution.sample)}, keep="all")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="all advantages")
        trainer(tmp_path, max_steps=1).fit(module(random_model), datamodule=part)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"sampling\.temperature must be positive, got 0: greedy solutions"):
        data(sampling=SamplingParams(temperature=0))
    with pytest.raises(ConfigError, match=r"keep_rounds must be 0 .* got -1"):
        data(keep_rounds=-1)


def test_metrics_of_a_round_are_logged(random_model, tmp_path):
    run = trainer(tmp_path)
    run.fit(module(random_model), datamodule=data())
    metrics = run.callback_metrics
    assert float(metrics["rollout/accuracy"]) == 0.5
    assert float(metrics["rollout/reward"]) == 0.0
    assert float(metrics["rollout/solutions"]) == 16
    assert float(metrics["credit/kept_solutions"]) == 16
    assert 0 < float(metrics["rollout/length_mean"]) <= 12
    text = Path(run.loggers[0].log_dir, "metrics.csv").read_text()  # pyright: ignore
    for name in ("rollout/tokens_per_s", "judge/seconds", "credit/advantage_variance", "train/loss", "mismatch/kl"):
        assert name in text


def test_rounds_that_teach_nothing_stop_with_a_reason(random_model, tmp_path):
    with pytest.raises(EmptyRoundError, match=r"3 rounds in a row .*rollout/accuracy, reward/\* .*data\.rewards"):
        trainer(tmp_path).fit(
            module(random_model),
            datamodule=data(verifier=MathVerifier(), keep="nonzero_advantage", max_empty_rounds=3),
        )


def test_a_round_that_kept_little_is_followed_by_the_next(random_model, tmp_path):
    recorder = Recorder()
    run = trainer(tmp_path, recorder)
    run.fit(module(random_model), datamodule=data(verifier=LuckyAtTimes(), keep="nonzero_advantage"))
    # 4 of 16 solutions are kept, half a step's worth: every round gives one step instead of two.
    assert [len(r.kept) for r in recorder.rounds] == [4] * 6
    assert recorder.starts == [(i, i) for i in range(6)]
    assert all(s.advantages.any() for r in recorder.rounds for s in r.kept)


def test_group_size_1_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="group_size must be at least 2, got 1: an advantage is a reward relative"):
        data(group_size=1)


@pytest.mark.parametrize("name", ["problems_per_step", "steps_per_round", "eval_samples", "max_prompt_tokens"])
def test_counts_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        data(**{name: 0})


class Nothing:
    name = "nothing"

    def load(self):
        return []


class Endless:
    name = "endless"

    def load(self):
        return [Problem(f"endless/{i}", "word " * 500, "1") for i in range(3)]


def test_missing_empty_and_overlong_problems_are_named(random_model, tmp_path):
    run = trainer(tmp_path)
    with pytest.raises(ConfigError, match=r"set data\.train"):
        run.fit(module(random_model), datamodule=data(train=None))
    with pytest.raises(InputError, match="train source is empty"):
        trainer(tmp_path).fit(module(random_model), datamodule=data(train=Nothing()))
    with pytest.raises(InputError, match="all 3 prompts are over max_prompt_tokens 1024"):
        trainer(tmp_path).fit(module(random_model), datamodule=data(train=Endless()))
    with pytest.raises(InputError, match=r"prompt of problem 'endless/0' has \d+ tokens"):
        trainer(tmp_path).fit(module(random_model), datamodule=data(train=Endless(), on_long_prompt="stop"))


def test_a_module_that_is_no_policy_is_named(tmp_path):
    class Plain(L.LightningModule):
        def training_step(self, batch, batch_idx):
            return None

        def configure_optimizers(self):
            return None

    with pytest.raises(ConfigError, match=r"Plain lacks part of lit_tpgrpo\.engines\.base\.Policy"):
        trainer(tmp_path).fit(Plain(), datamodule=data())


def test_nothing_is_sampled_in_the_sanity_check(random_model, tmp_path):
    dm = data(val=ArithmeticProblems("1", n=4, split="heldout"), train=ArithmeticProblems("1", n=8), eval_samples=2)
    engine, order = dm.engine, []
    original = engine.sample

    def watch(prompts, n, params, seeds):
        order.append((run.sanity_checking, run.global_step, len(prompts)))
        return original(prompts, n, params, seeds)

    engine.sample = watch  # pyright: ignore
    run = trainer(tmp_path, MathEvaluation(), max_steps=4, num_sanity_val_steps=2)
    run.fit(module(random_model), datamodule=dm)
    assert [o[0] for o in order] == [False] * len(order)
    # Evaluation (4 problems) before round 0, rounds (4 problems) at 0 and 2, evaluation after the last step.
    assert [step for _, step, _ in order] == [0, 0, 2, 4]


def test_closing_frees_the_parts(random_model, tmp_path):
    dm = data(verifier=MathVerifier())
    with pytest.raises(EmptyRoundError):
        trainer(tmp_path).fit(module(random_model), datamodule=data(keep="nonzero_process_reward", max_empty_rounds=1))
    trainer(tmp_path).fit(module(random_model), datamodule=dm)
    with pytest.raises(RuntimeError, match="before load_weights"):
        list(dm.engine.sample([[1]], 1, SamplingParams(4), [0]))


def test_a_self_judge_gets_the_policys_engine_and_the_policy_is_loaded_after_the_hooks(random_model, tmp_path):
    """An audit in ``on_round_start`` asks the judge, whose weights are then in the engine."""

    class Remembering(HFEngine):
        loaded: object = None
        sampled_by: list[object]

        def load_weights(self, policy):
            self.loaded = policy
            super().load_weights(policy)

        def sample(self, prompts, n, params, seeds):
            self.sampled_by.append(self.loaded)
            return super().sample(prompts, n, params, seeds)

    class Auditing(RoundCallback):
        def on_round_start(self, trainer, pl_module, round_index):
            engine.load_weights(module(random_model))

    engine = Remembering()
    engine.sampled_by = []
    chat = LocalChat("policy")
    assert data(engine=engine, judge=GenerativeJudge(chat)).judge.chat.engine is engine  # pyright: ignore
    policy = module(random_model)
    trainer(tmp_path, Auditing()).fit(policy, datamodule=data(engine=engine))
    assert len(engine.sampled_by) >= 2
    assert all(by is policy for by in engine.sampled_by)


def test_an_engine_that_all_ranks_load_together_is_not_shared():
    server = VLLMServer("http://127.0.0.1:9")
    chat = LocalChat("policy")
    data(engine=server, judge=GenerativeJudge(chat))
    assert chat.engine is not server
