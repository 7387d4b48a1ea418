"""Evaluation is Lightning's validation: its switches, callbacks and results mean what Lightning's documentation says."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lit_tpgrpo.callbacks import MathEvaluation, SafeCheckpoint
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import EvaluatedGroup, Outcome, Solution, StopReason
from tests.datamodules.scored_runs import LuckyByTurns


class ScoredByStep(MathRolloutDataModule):
    """The policy after n steps solves n of the six held-out problems: a score tells which weights it is of."""

    def evaluate(self, split, limit=None):
        for number, problem in enumerate(self.problems(split)[:limit]):
            right = Outcome.CORRECT if number < self.policy.policy_version else Outcome.INCORRECT
            solution = Solution(problem.uid, 0, (1,), (2,), (0.0,), StopReason.EOS, 0, "x", (0,))
            yield EvaluatedGroup(problem, (solution, solution), (right, right), (None, None))


def data(kind: type[MathRolloutDataModule] = ScoredByStep, **kwargs) -> MathRolloutDataModule:
    settings = {
        "train": ArithmeticProblems("1", n=8),
        "val": ArithmeticProblems("1", n=6, split="heldout"),
        "verifier": LuckyByTurns(),
        "group_size": 2,
        "problems_per_step": 1,
        "steps_per_round": 2,
        "steps_per_epoch": 2,
        "keep": "all",
        "sampling": SamplingParams(max_new_tokens=4),
        "eval_samples": 2,
        "prompt_template": "{problem}",
        "progress": False,
    }
    return kind(**(settings | kwargs))


def trainer(tmp_path: Path, *callbacks: L.Callback, **kwargs) -> L.Trainer:
    settings = {
        "max_epochs": 3,
        "enable_progress_bar": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
    } | kwargs
    return L.Trainer(
        accelerator="cpu",
        enable_model_summary=False,
        log_every_n_steps=1,
        logger=CSVLogger(tmp_path, name="", version="run"),
        callbacks=list(callbacks),
        **settings,
    )


def module(random_model: str) -> TPGRPOModule:
    torch.manual_seed(0)
    return TPGRPOModule(random_model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def printed_steps(printed: str) -> list[int]:
    return [int(line.split("|")[1].split()[1]) for line in printed.splitlines() if line.startswith("eval |")]


def logged(tmp_path: Path, name: str) -> list[tuple[int, float]]:
    with (tmp_path / "run" / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]


ANYWHERE: dict = {"check_val_every_n_epoch": None, "max_epochs": -1}


@pytest.mark.parametrize(
    ("options", "callback", "expected"),
    [
        ({}, {}, [0, 2, 4, 6]),
        ({"check_val_every_n_epoch": 2}, {}, [0, 4, 6]),
        ({"val_check_interval": 0.5, "max_epochs": 1}, {}, [0, 1, 2]),
        (ANYWHERE | {"val_check_interval": 4, "max_steps": 5}, {}, [0, 4, 5]),
        (ANYWHERE | {"val_check_interval": 4, "max_steps": 5}, {"both_ends": False}, [4]),
        ({"max_steps": 3}, {}, [0, 2, 3]),
        ({"limit_val_batches": 0, "max_steps": 1}, {}, []),
    ],
    ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()) if isinstance(v, dict) else "",
)
def test_when_evaluation_runs_is_the_trainers_to_say(random_model, tmp_path, capsys, options, callback, expected):
    trainer(tmp_path, MathEvaluation(**callback), **options).fit(module(random_model), datamodule=data())
    printed = capsys.readouterr().out
    assert printed_steps(printed) == expected
    if not expected:
        assert "held-out" not in printed
        return
    # In every log at the step of the weights that were measured.
    assert logged(tmp_path, "eval/avg@2") == [(step, pytest.approx(step / 6)) for step in expected]
    assert printed.strip().splitlines()[-1] == f"held-out accuracy {expected[0] / 6:.3f} -> {expected[-1] / 6:.3f}"


class Pairs(L.Callback):
    """(score, step of the weights) of all checkpoints in a folder."""

    @staticmethod
    def of(saver: ModelCheckpoint) -> list[tuple[float, int]]:
        pairs = [
            (round(6 * float(score), 3), torch.load(path, weights_only=False)["global_step"])
            for path, score in saver.best_k_models.items()
        ]
        return sorted(pairs)


@pytest.mark.parametrize("kind", [ModelCheckpoint, SafeCheckpoint])
@pytest.mark.parametrize(
    ("options", "saving", "expected"),
    [
        ({}, {}, [2, 4, 6]),
        ({"max_steps": 3}, {}, [2, 3]),
        (ANYWHERE | {"val_check_interval": 2, "max_steps": 5}, {}, [2, 4, 5]),
    ],
    ids=["epochs", "cut short", "interval"],
)
def test_a_score_is_saved_beside_the_weights_it_was_measured_on(
    random_model, tmp_path, kind, options, saving, expected
):
    saver = kind(tmp_path / "c", monitor="eval/avg@2", mode="max", save_top_k=-1, **saving)
    trainer(tmp_path, MathEvaluation(), saver, **options).fit(module(random_model), datamodule=data())
    assert Pairs.of(saver) == [(step, step) for step in expected]
    assert saver.best_model_path.endswith(f"step={expected[-1]}.ckpt")


def test_the_best_checkpoint_waits_for_the_validation_after_its_step_and_the_last_does_not(random_model, tmp_path):
    saver = SafeCheckpoint(tmp_path / "c", monitor="eval/avg@2", mode="max", save_top_k=-1, every_n_train_steps=1)
    lasts = []

    class Watch(L.Callback):
        def on_train_batch_start(self, *args):
            lasts.append(torch.load(tmp_path / "c" / "last.ckpt", weights_only=False)["global_step"])

    options = ANYWHERE | {"val_check_interval": 2, "max_steps": 5}
    trainer(tmp_path, MathEvaluation(), Watch(), saver, **options).fit(module(random_model), datamodule=data())
    assert Pairs.of(saver) == [(2, 2), (4, 4), (5, 5)]
    assert lasts == [0, 1, 2, 3, 4]


def test_early_stopping_looks_at_every_validation(random_model, tmp_path, capsys):
    stop = EarlyStopping("eval/avg@2", patience=2, mode="min")  # scores rise: each is worse
    saver = SafeCheckpoint(tmp_path / "c", every_n_train_steps=100)
    run = trainer(tmp_path, MathEvaluation(), stop, saver, **ANYWHERE, val_check_interval=1, max_steps=8)
    run.fit(module(random_model), datamodule=data())
    assert run.global_step == 2  # 0 at step 0, then twice worse
    assert printed_steps(capsys.readouterr().out) == [0, 1, 2]
    assert torch.load(tmp_path / "c" / "last.ckpt", weights_only=False)["global_step"] == 2


class CountingEngine(HFEngine):
    asked = 0

    def sample(self, prompts, n, params, seeds):
        self.asked += len(prompts)
        return super().sample(prompts, n, params, seeds)


def test_limited_validation_samples_no_more_than_its_batches(random_model, tmp_path, capsys):
    engine = CountingEngine()
    run = trainer(tmp_path, MathEvaluation(), limit_val_batches=1)
    (found,) = run.validate(module(random_model), datamodule=data(MathRolloutDataModule, engine=engine))
    assert engine.asked == 1
    assert found["eval/problems"] == 1
    assert found["eval/avg@2"] == 0.5  # one of two samples is lucky
    assert not any(math.isnan(v) for v in found.values())
    printed = capsys.readouterr().out
    assert "eval | step 0 | avg@2 0.500, maj@2 0.000, pass@1 0.500, pass@2 1.000 | 1 problem\n" in printed
    assert "nan" not in printed


class Sleeper(HFEngine):
    """Says whether it is awake."""

    awake = False

    def wake(self):
        super().wake()
        self.awake = True

    def sleep(self):
        self.awake = False
        super().sleep()


@pytest.mark.parametrize("limit", [1.0, 2])
def test_the_engine_sleeps_when_the_last_batch_is_there(random_model, tmp_path, limit):
    """Training needs its memory back, and Lightning asks the loader for no more than the batches it wants."""
    engine, seen = Sleeper(), []

    class Watch(L.Callback):
        def on_validation_batch_end(self, *args, **kwargs):
            seen.append(engine.awake)

    dm = data(MathRolloutDataModule, engine=engine, val=ArithmeticProblems("1", n=3, split="heldout"))
    trainer(tmp_path, MathEvaluation(), Watch(), limit_val_batches=limit).validate(module(random_model), datamodule=dm)
    assert seen == ([True, True, False] if limit == 1.0 else [True, False])


def test_validate_and_test_return_their_scores_with_and_without_the_callback(random_model, tmp_path):
    dm = data(MathRolloutDataModule, test=ArithmeticProblems("1", n=3, split="heldout", seed=9))
    policy = module(random_model)
    for callbacks in ([MathEvaluation()], []):
        run = trainer(tmp_path, *callbacks)
        (validated,) = run.validate(policy, datamodule=dm, verbose=False)
        (tested,) = run.test(policy, datamodule=dm, verbose=False)
        # Two samples a problem, one of them lucky: avg@2 = 1/2 and pass@2 = 1 by construction; no answers, so no votes.
        expected = {"avg@2": 0.5, "avg@2_se": 0.0, "pass@1": 0.5, "pass@2": 1.0, "maj@2": 0.0}
        assert {k: validated[f"eval/{k}"] for k in expected} == expected
        assert {k: tested[f"test/{k}"] for k in expected} == expected
        assert (validated["eval/problems"], tested["test/problems"]) == (6, 3)


def test_validation_without_the_callback_is_scored_in_fit_too(random_model, tmp_path):
    trainer(tmp_path, max_epochs=2).fit(module(random_model), datamodule=data())
    assert logged(tmp_path, "eval/avg@2") == [(2, pytest.approx(2 / 6)), (4, pytest.approx(4 / 6))]


def test_validate_after_fit_is_of_the_weights_of_now(random_model, tmp_path, capsys):
    policy, dm = module(random_model), data()
    saver = SafeCheckpoint(tmp_path / "c", every_n_train_steps=1, save_top_k=-1)
    run = trainer(tmp_path, MathEvaluation(), saver, max_steps=3)
    run.fit(policy, datamodule=dm)
    capsys.readouterr()
    assert run.validate(policy, datamodule=dm, verbose=False)[0]["eval/avg@2"] == pytest.approx(3 / 6)
    earlier = run.validate(policy, datamodule=dm, ckpt_path=tmp_path / "c" / "epoch=0-step=1.ckpt", verbose=False)
    assert earlier[0]["eval/avg@2"] == pytest.approx(1 / 6)
    assert printed_steps(capsys.readouterr().out) == [3, 1]
    assert (3, pytest.approx(3 / 6)) in logged(tmp_path, "eval/avg@2")


class Foreign(TPGRPOModule):
    """A module that knows nothing of our groups."""

    evaluation = None  # pyright: ignore
    validated: list

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.step()  # pyright: ignore

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)
        self.log("val_loss", float(batch_idx) if isinstance(batch, torch.Tensor) else 7.0, batch_size=1)


class OwnLoaders(ScoredByStep):
    def train_dataloader(self):
        return DataLoader(torch.arange(2.0), batch_size=1)

    def val_dataloader(self):
        return DataLoader(torch.arange(3.0), batch_size=1)


def foreign(random_model: str) -> Foreign:
    made = Foreign(random_model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    made.validated = []
    return made


def test_a_foreign_module_with_loaders_of_its_own_keeps_its_validation_and_is_evaluated(random_model, tmp_path, capsys):
    policy = foreign(random_model)
    run = trainer(tmp_path, MathEvaluation(), max_epochs=2, num_sanity_val_steps=0)
    run.fit(policy, datamodule=data(OwnLoaders))
    assert len(policy.validated) == 3 * 3  # at step 0 and after two epochs of two steps
    assert float(run.callback_metrics["val_loss"]) == 1.0  # the mean of batches 0, 1, 2
    assert printed_steps(capsys.readouterr().out) == [0, 2, 4]
    assert logged(tmp_path, "eval/avg@2") == [(step, pytest.approx(step / 6)) for step in (0, 2, 4)]


@pytest.mark.parametrize(("limit", "problems"), [(1, 1), (2, 2), (1.0, 6), (0.67, 4)])
def test_limit_val_batches_holds_beside_a_loader_of_the_users(random_model, tmp_path, capsys, limit, problems):
    """A share of the batches was taken for no limit: 2 of the 3 batches, 6 of the 6 problems."""
    run = trainer(tmp_path, MathEvaluation(), limit_val_batches=limit)
    run.validate(foreign(random_model), datamodule=data(OwnLoaders))
    assert re.search(r"\| (\d+) problems?\n", capsys.readouterr().out).group(1) == str(problems)  # pyright: ignore


def test_a_foreign_module_that_validates_on_our_problems_is_scored(random_model, tmp_path):
    policy = foreign(random_model)
    (found,) = trainer(tmp_path, MathEvaluation()).validate(
        policy, datamodule=data(MathRolloutDataModule), verbose=False
    )
    assert len(policy.validated) == 6
    assert (found["eval/avg@2"], found["val_loss"]) == (0.5, 7.0)


def test_what_keeps_evaluation_from_its_work_is_said(random_model, tmp_path):
    class NoValidation(Foreign):
        validation_step = L.LightningModule.validation_step

    policy = NoValidation(random_model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    with pytest.warns(UserWarning, match="nothing is evaluated: NoValidation has no validation_step"):
        trainer(tmp_path, MathEvaluation(), max_epochs=1).fit(policy, datamodule=data(OwnLoaders))
    with pytest.raises(ConfigError, match=r"pass_at holds \[5\], and data.eval_samples is 2"):
        trainer(tmp_path, MathEvaluation(pass_at=(5,))).fit(module(random_model), datamodule=data())
    with pytest.raises(ConfigError, match="MathEvaluation works on the rollouts of a MathRolloutDataModule"):
        trainer(tmp_path, MathEvaluation()).fit(module(random_model), train_dataloaders=[1])
    with pytest.raises(ConfigError, match=r"no val problems: set data\.val .*limit_val_batches 0"):
        trainer(tmp_path, MathEvaluation()).fit(module(random_model), datamodule=data(val=None))


def test_training_problems_are_read_before_anything_is_sampled(random_model, tmp_path):
    class Unreadable(ArithmeticProblems):
        def load(self):
            raise InputError("nothing there")

    engine = CountingEngine()
    run = trainer(tmp_path, MathEvaluation(), max_steps=1)
    with pytest.raises(InputError, match="nothing there"):
        run.fit(module(random_model), datamodule=data(MathRolloutDataModule, engine=engine, train=Unreadable("1")))
    assert engine.asked == 0


@pytest.mark.parametrize(
    ("make", "stops_at"),
    [
        (lambda path: [MathEvaluation(), SafeCheckpoint(path, monitor="eval/avg@4")], 0),
        (lambda path: [MathEvaluation(), EarlyStopping("eval/avg@4")], 0),
        (lambda path: [EarlyStopping("eval/avg@4"), MathEvaluation()], 0),
        (lambda path: [MathEvaluation(both_ends=False), ModelCheckpoint(path, monitor="eval/avg@4")], 2),
        (lambda path: [EarlyStopping("eval/avg@4"), MathEvaluation(both_ends=False)], 2),
        (lambda path: [ModelCheckpoint(path, monitor="eval/avg@4"), MathEvaluation(both_ends=False)], 2),
        (lambda path: [MathEvaluation(), EarlyStopping("eval/avg@4", strict=False)], None),
        (lambda path: [MathEvaluation(), SafeCheckpoint(path, monitor="train/loss")], None),
    ],
    ids=[
        "saver",
        "early stopping",
        "early stopping first",
        "not at both ends",
        "stopping, not both ends",
        "saver, not both ends",
        "not strict",
        "of training",
    ],
)
def test_a_monitor_that_nothing_measures_ends_the_run_after_the_first_evaluation(
    random_model, tmp_path, make, stops_at
):
    run = trainer(tmp_path, *make(tmp_path / "c"), max_epochs=1)
    if stops_at is None:
        run.fit(module(random_model), datamodule=data())
        return
    with pytest.raises(ConfigError, match=r"monitors eval/avg@4, which .* set its monitor to one of eval/avg@2, "):
        run.fit(module(random_model), datamodule=data())
    assert run.global_step == stops_at


def test_early_stopping_that_is_listed_first_sees_the_last_score(random_model, tmp_path):
    class Last(EarlyStopping):
        def on_train_epoch_end(self, trainer, pl_module):
            self.seen = float(trainer.callback_metrics["eval/avg@2"])

    stop = Last("eval/avg@2")
    trainer(tmp_path, stop, MathEvaluation(), max_steps=3, **ANYWHERE | {"val_check_interval": 2}).fit(
        module(random_model), datamodule=data(steps_per_epoch=3)
    )
    assert stop.seen == 0.5  # of step 3, not of step 2


def test_a_resumed_run_repeats_no_evaluation_and_makes_up_for_one_that_was_due(random_model, tmp_path, capsys):
    """Step 2 is saved, then its validation is interrupted."""

    class Interrupted(ScoredByStep):
        def evaluate(self, split, limit=None):
            if self.policy.policy_version == 2:
                raise OSError("the machine is gone")
            return super().evaluate(split, limit)

    def fit(kind: type[MathRolloutDataModule], folder: str, path: Path | None = None) -> list[int]:
        saver = SafeCheckpoint(tmp_path / folder, every_n_train_steps=1, save_on_exception=False)
        run = trainer(tmp_path, MathEvaluation(), saver, max_steps=5, val_check_interval=2, **ANYWHERE)
        try:
            run.fit(module(random_model), datamodule=data(kind), ckpt_path=path, weights_only=True)
        except OSError:
            assert run.global_step == 2
        return printed_steps(capsys.readouterr().out)

    assert fit(Interrupted, "first") == [0]
    assert fit(ScoredByStep, "second", tmp_path / "first" / "last.ckpt") == [2, 4, 5]
    # Saved after step 5 was evaluated: nothing is left to do.
    assert fit(ScoredByStep, "third", tmp_path / "second" / "last.ckpt") == []
