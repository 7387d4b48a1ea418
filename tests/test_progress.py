"""The progress bar counts optimizer steps, leaves nothing behind, and gives way to the user's."""

from __future__ import annotations

import re
import warnings

import lightning as L
import pytest
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from lit_tpgrpo.callbacks import SafeCheckpoint
from lit_tpgrpo.notices import hide_notices
from lit_tpgrpo.training.progress_bar import OptimizerStepBar
from tests.callbacks.test_evaluation import data, module


class Bar(ProgressBar):
    """A user's."""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a run without logger has its folder where it is started


def run(policy, datamodule, *callbacks: L.Callback, **options) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(policy, datamodule=datamodule)
    return trainer


def test_one_bar_counts_the_steps_of_the_run(random_model, tmp_path, capsys):
    dm = data(progress=True, store_dir=str(tmp_path))
    trainer = run(module(random_model), dm, max_steps=4)  # two epochs of two steps, a validation after each
    assert type(trainer.progress_bar_callback) is OptimizerStepBar
    printed = capsys.readouterr()
    assert set(re.findall(r"training: +\d+%\|[^|]*\| (\d+/\d+) ", printed.out)) == {f"{n}/4" for n in range(5)}
    assert "/?" not in printed.out
    assert "Epoch" not in printed.out
    assert "evaluating DataLoader 0: 100%" in printed.out
    assert "sampling" in printed.err


@pytest.mark.parametrize(
    "bar", [Bar(), TQDMProgressBar(refresh_rate=0), RichProgressBar(leave=True)], ids=lambda b: type(b).__name__
)
def test_a_users_bar_stays(random_model, tmp_path, bar):
    assert (
        run(module(random_model), data(store_dir=str(tmp_path), val=None), bar, max_steps=1).progress_bar_callback
        is bar
    )


def test_without_a_bar_no_bar_is_drawn(random_model, tmp_path, capsys):
    dm = data(progress=True, store_dir=str(tmp_path), val=None)
    trainer = run(module(random_model), dm, max_steps=1, enable_progress_bar=False)
    assert trainer.progress_bar_callback is None
    printed = capsys.readouterr()
    assert "%|" not in printed.out + re.sub(r"Loading weights:[^\r\n]*", "", printed.err)


@pytest.mark.parametrize(
    ("command", "name"), [("validate", "evaluating"), ("test", "testing"), ("predict", "predicting")]
)
def test_each_bar_has_its_total_from_the_start(random_model, capsys, command, name):
    policy = module(random_model)
    use = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", **use)
    getattr(trainer, command)(policy, datamodule=data(train=None))
    printed = capsys.readouterr().out
    assert re.search(rf"{name}: +0%\|[^|]*\| 0/6 ", printed)
    assert re.search(rf"{name}[^|]*: 100%\|[^|]*\| 6/6 ", printed)
    assert "/?" not in printed


def test_a_time_limit_need_not_be_given_again(random_model, tmp_path):
    """Lightning warns of each callback that the checkpoint has a state of, also of the Timer of ``max_time``."""
    saver = SafeCheckpoint(tmp_path / "c")
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(**options, max_steps=1, max_time={"hours": 9}, callbacks=saver, limit_val_batches=0).fit(
        module(random_model), datamodule=data()
    )
    with warnings.catch_warnings(record=True) as said:
        hide_notices()
        L.Trainer(**options, max_steps=2, callbacks=SafeCheckpoint(tmp_path / "c"), limit_val_batches=0).fit(
            module(random_model), datamodule=data(), ckpt_path=tmp_path / "c" / "last.ckpt", weights_only=True
        )
    assert [str(w.message) for w in said if "callbacks" in str(w.message) or "Checkpoint" in str(w.message)] == []
