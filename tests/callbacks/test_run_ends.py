"""However a run ends, the weights it ended with are saved, and its last lines say where."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_tpgrpo.callbacks import MathEvaluation, SafeCheckpoint
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.module import TPGRPOModule
from tests.callbacks.test_evaluation import ANYWHERE, data, module, trainer


def weights(policy: TPGRPOModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in policy.policy_model.parameters()])


class StopAt(L.Callback):
    """Ends the run after a step, in one way or another."""

    def __init__(self, step: int, error: type[BaseException] | None = None) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.should_stop = True
            if self.error is not None:
                raise self.error("enough")


@pytest.mark.parametrize(
    ("options", "callbacks", "error", "kind"),
    [
        ({"max_steps": 3}, [], None, True),
        ({"max_steps": 3}, [], None, "link"),
        ({"max_epochs": 2, "limit_train_batches": 3}, [], None, True),
        ({}, [StopAt(3)], None, True),
        ({}, [StopAt(3, ValueError)], ValueError, True),
        ({}, [StopAt(3, KeyboardInterrupt)], SystemExit, True),
    ],
    ids=["max_steps", "max_steps, link", "max_epochs", "should_stop", "error", "ctrl-C"],
)
def test_every_end_saves_the_weights_it_ended_with(random_model, tmp_path, options, callbacks, error, kind):
    saver = SafeCheckpoint(tmp_path / "c", every_n_train_steps=3 if "max_epochs" in options else 2, save_last=kind)
    policy = module(random_model)
    run = trainer(tmp_path, *callbacks, saver, **({"limit_val_batches": 0} | options))
    with pytest.raises(error) if error else nullcontext():
        run.fit(policy, datamodule=data())
    last = torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)
    assert last["global_step"] == run.global_step == (4 if "max_epochs" in options else 3)
    assert all(torch.equal(v, last["state_dict"][k]) for k, v in policy.state_dict().items())


def test_an_epoch_that_was_cut_short_goes_on_when_the_run_is_resumed(random_model, tmp_path):
    """Six steps in one epoch: whole, and cut after three by each of two limits."""

    def fit(folder: str, path: Path | None = None, *callbacks: L.Callback, **options) -> tuple[int, torch.Tensor]:
        policy = module(random_model)
        saver = SafeCheckpoint(tmp_path / folder, every_n_train_steps=100)
        run = trainer(tmp_path, *callbacks, saver, **({"max_epochs": 1, "limit_val_batches": 0} | options))
        run.fit(policy, datamodule=data(steps_per_epoch=6), ckpt_path=path, weights_only=True)
        return run.global_step, weights(policy)

    steps, whole = fit("whole")
    assert steps == 6
    assert fit("limited", max_steps=3)[0] == fit("stopped", None, StopAt(3))[0] == 3
    for name in ("limited", "stopped"):
        steps, resumed = fit(f"{name}-on", tmp_path / name / "last.ckpt")
        assert (steps, torch.equal(resumed, whole)) == (6, True)
    assert fit("done", tmp_path / "whole" / "last.ckpt")[0] == 6  # and no seventh


def test_fast_dev_run_writes_nothing(random_model, tmp_path, capsys):
    folder = tmp_path / "c"
    run = trainer(tmp_path, MathEvaluation(), SafeCheckpoint(folder, every_n_train_steps=1), fast_dev_run=True)
    run.fit(module(random_model), datamodule=data(problems_per_step=2, store_dir=str(tmp_path / "rounds")))
    assert not folder.exists()
    printed = capsys.readouterr().out
    assert "checkpoint:" not in printed
    # One step's problems are sampled, two of two samples each, though a round has two steps; one problem is evaluated.
    assert re.search(r"round 0 \| step 0 \|.* kept 4/4 ", printed)
    assert len(re.findall(r"eval \| step \d \|.*\| 1 problem\n", printed)) == 2


@pytest.mark.parametrize("saves", ["all", "some", "none"])
def test_the_last_lines_say_where_the_run_is(random_model, tmp_path, capsys, monkeypatch, saves):
    monkeypatch.chdir(tmp_path)
    savers = {
        "all": [SafeCheckpoint("c", monitor="eval/avg@2", mode="max", every_n_train_steps=2)],
        "some": [ModelCheckpoint("c", every_n_train_steps=2)],
        "none": [],
    }[saves]
    loggers = [TensorBoardLogger(tmp_path, "tb"), CSVLogger(tmp_path, "tb"), CSVLogger(tmp_path, "other")]
    run = L.Trainer(
        accelerator="cpu",
        max_steps=3,
        max_epochs=1 if saves == "some" else -1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(savers),
        logger=loggers if saves == "all" else False,
        callbacks=[MathEvaluation(), *savers],
        default_root_dir=tmp_path,
    )
    run.fit(module(random_model), datamodule=data(store_dir="rounds", steps_per_epoch=2))
    lines = capsys.readouterr().out.strip().splitlines()
    ended = lines[lines.index(next(line for line in lines if line.startswith(("ended", "run:")))) :]
    expected = {
        "all": [
            "run: tb/version_0",
            "checkpoint: c/last.ckpt (optimizer step 3)",
            "best checkpoint: c/epoch=2-step=3.ckpt (eval/avg@2 0.500)",
            "report: tensorboard --logdir tb/version_0 (curves: SCALARS, solutions: TEXT)",
            "metrics: tb/version_0/metrics.csv",
            "metrics: other/version_0/metrics.csv",
            "held-out accuracy 0.000 -> 0.500",
        ],
        "some": [
            "ended by trainer.max_epochs 1 at optimizer step 2 of trainer.max_steps 3: raise max_epochs, or set it to -1, "
            "to go on",
            "run: version_0",
            "checkpoint: c/epoch=0-step=2.ckpt (optimizer step 2)",
            "held-out accuracy 0.000 -> 0.333",
        ],
        "none": ["run: version_0", "checkpoint: none was written", "held-out accuracy 0.000 -> 0.500"],
    }[saves]
    assert ended == expected
    if (
        saves == "all"
    ):  # loggers that count in the same folder share their number, and the run is where the first one is
        assert {p.name for p in tmp_path.iterdir()} == {"c", "rounds", "tb", "other"}
        assert [p.name for p in (tmp_path / "tb").iterdir()] == ["version_0"]
        assert (tmp_path / "tb" / "version_0" / "metrics.csv").is_file()


def test_a_run_that_a_metric_ends_says_so_and_not_at_a_limit(random_model, tmp_path, capsys):
    """No accuracy is 2 more than the one before training. One resumed run looks at its last step, one is ended by another."""

    def fit(steps: int, path: Path | None = None, *more: L.Callback, **options) -> list[str]:
        stopping = EarlyStopping("eval/avg@2", min_delta=2.0, patience=2, mode="max")
        callbacks = (MathEvaluation(), stopping, SafeCheckpoint(tmp_path / f"c{steps}"), *more)
        run = trainer(tmp_path, *callbacks, **ANYWHERE, max_steps=steps, val_check_interval=1, **options)
        run.fit(module(random_model), datamodule=data(), ckpt_path=path, weights_only=True)
        return capsys.readouterr().out.splitlines()

    (line,) = (line for line in fit(6) if line.startswith("ended by"))
    assert re.fullmatch(
        r"ended by EarlyStopping at optimizer step 2 of trainer\.max_steps 6: Monitored metric eval/avg@2 did not improve in "
        r"the last 2 records\. Best score: \d\.\d{3}\.",
        line,
    )
    path = tmp_path / "c6" / "last.ckpt"
    for resumed in (fit(3, path), fit(9, path, StopAt(3), limit_val_batches=0)):
        assert not [line for line in resumed if line.startswith("ended by")]
        assert [line for line in resumed if "(optimizer step 3)" in line]


def test_checkpoints_that_lack_the_last_steps_say_so(random_model, tmp_path, capsys):
    saver = ModelCheckpoint(tmp_path / "c", every_n_train_steps=2)
    trainer(tmp_path, saver, **ANYWHERE, max_steps=3).fit(module(random_model), datamodule=data())
    printed = capsys.readouterr().out
    assert "step=2.ckpt (optimizer step 2, which lacks the last 1: SafeCheckpoint saves every end)" in printed


@pytest.mark.parametrize("limit", ["max_steps", "max_epochs", "max_time"])
def test_a_run_that_is_resumed_at_its_end_says_that_nothing_was_done_and_why(
    random_model, tmp_path, capsys, monkeypatch, limit
):
    monkeypatch.chdir(tmp_path)
    options = {"max_epochs": -1, "max_steps": 2} if limit != "max_epochs" else {"max_epochs": 1}
    options |= {"limit_val_batches": 0}

    def fit(folder: str, path: str | None = None, **more) -> None:
        run = trainer(tmp_path, SafeCheckpoint(tmp_path / folder), **(options | more))
        run.fit(module(random_model), datamodule=data(), ckpt_path=path, weights_only=True)

    fit("a", max_time={"hours": 9})
    assert "nothing was done" not in capsys.readouterr().out
    if limit == "max_time":  # the limit of nine hours, all of which were used
        checkpoint = torch.load("a/last.ckpt", weights_only=True)
        checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] = 9 * 3600.0
        torch.save(checkpoint, "a/last.ckpt")
    fit("b", "a/last.ckpt", **({"max_steps": 4, "max_time": {"hours": 9}} if limit == "max_time" else {}))
    expected = {
        "max_steps": "a/last.ckpt is at optimizer step 2 of trainer.max_steps 2; raise it to go on",
        "max_epochs": "a/last.ckpt is at the end of epoch 1 of trainer.max_epochs 1; raise it to go on",
        "max_time": "the run's time of 9:00:00 is used up; raise trainer.max_time to go on",
    }[limit]
    assert capsys.readouterr().out.strip().splitlines()[-3:] == [
        f"nothing was done: {expected}",
        "run: run",
        "checkpoint: a/last.ckpt (optimizer step 2)",
    ]


def test_how_to_resume_is_said_on_a_line_of_its_own(random_model, tmp_path, capsys):
    saver = SafeCheckpoint(tmp_path / "c")
    run = trainer(tmp_path, StopAt(1, ValueError), saver, enable_progress_bar=True, limit_val_batches=0)
    with pytest.raises(ValueError, match="enough"):
        run.fit(module(random_model), datamodule=data())
    assert f"resume with --ckpt_path {tmp_path / 'c' / 'last.ckpt'}" in capsys.readouterr().out.split("\n")


class Clock(HFEngine):
    """The time is up when so many prompts were sampled in training."""

    def __init__(self, prompts: int) -> None:
        super().__init__(batch_size=2)  # one prompt of two samples at a time
        self.left = self.prompts = prompts
        self.asked = 0

    def sample(self, prompts, n, params, seeds):
        self.asked += len(prompts)
        for item in super().sample(prompts, n, params, seeds):
            self.left -= 1
            yield item


@pytest.mark.parametrize(("prompts", "step"), [(5, 4), (1, 0)])
def test_max_time_ends_a_round_in_the_making_and_keeps_what_it_has(random_model, tmp_path, monkeypatch, prompts, step):
    """Rounds of two problems, a step each. The time is over in the middle of round 2, or of the first one."""
    engine = Clock(prompts)
    monkeypatch.setattr(Timer, "time_remaining", lambda self: engine.left)

    def fit(folder: str, engine: HFEngine, path: Path | None = None, **options) -> tuple[int, torch.Tensor]:
        policy, saver = module(random_model), SafeCheckpoint(tmp_path / folder, every_n_train_steps=100)
        run = trainer(tmp_path, MathEvaluation(), saver, max_steps=6, **ANYWHERE, **options)
        dm = data(engine=engine, steps_per_epoch=8, store_dir=str(tmp_path / f"rounds of {folder}"))
        run.fit(policy, datamodule=dm, ckpt_path=path, weights_only=True)
        return run.global_step, weights(policy)

    assert fit("cut", engine, max_time={"hours": 9})[0] == step
    assert (engine.prompts - engine.left, torch.load(tmp_path / "cut" / "last.ckpt")["global_step"]) == (prompts, step)
    again = Clock(99)
    steps, resumed = fit("cut", again, tmp_path / "cut" / "last.ckpt")
    assert (steps, again.asked) == (6, 6 - prompts)  # what was stored is not sampled again
    assert torch.equal(resumed, fit("whole", HFEngine(batch_size=2))[1])
