"""Lightning's switches, callbacks and loggers on rollouts, one test a name; docs/lightning.md says where the others are."""

from __future__ import annotations

import csv
import importlib.util
import os
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import DeviceStatsMonitor, ModelSummary, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lit_tpgrpo.callbacks import JudgedSolutionWriter, MathEvaluation, SafeCheckpoint, SolutionSamples
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.loggers import TrackioLogger
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.callbacks.test_evaluation import ANYWHERE, CountingEngine, data, module, trainer


def rollouts(**kwargs) -> MathRolloutDataModule:
    """Everything is sampled; rounds of two steps, of a problem of two solutions each."""
    return data(MathRolloutDataModule, **({"steps_per_epoch": 4} | kwargs))


def run(tmp_path: Path, *callbacks: L.Callback, **kwargs) -> L.Trainer:
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_steps": 2} | kwargs
    checkpoints = any(isinstance(c, SafeCheckpoint) for c in callbacks)
    settings |= {"default_root_dir": tmp_path, "enable_checkpointing": checkpoints, "log_every_n_steps": 1}
    return L.Trainer(accelerator="cpu", callbacks=list(callbacks), **settings)


def test_fast_dev_run_leaves_no_files(random_model, tmp_path, monkeypatch):
    """Of fit, validate and predict, with a logger and all that writes; one step and one problem of each."""
    monkeypatch.chdir(tmp_path)
    callbacks = (MathEvaluation(), SafeCheckpoint(every_n_train_steps=1), SolutionSamples(), JudgedSolutionWriter("p"))
    dev = run(tmp_path, *callbacks, fast_dev_run=True, logger=TensorBoardLogger(tmp_path))
    policy, engine = module(random_model), CountingEngine()
    rounds = rollouts(engine=engine, verifier=MathVerifier(), keep="nonzero_advantage")  # nothing is right
    dev.fit(policy, datamodule=rounds)
    assert (dev.global_step, engine.asked) == (1, 3)  # one problem is trained on, one evaluated before and after
    dev.validate(policy, datamodule=rounds)
    assert engine.asked == 3  # of the same weights: what the last evaluation sampled is in the temporary folder
    assert len(dev.predict(policy, datamodule=rounds) or []) == 1
    assert engine.asked == 4
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_limit_train_batches(random_model, tmp_path):
    """The length of an epoch in optimizer steps; rounds go on across epochs."""
    engine = CountingEngine()
    limited = run(tmp_path, limit_train_batches=1, limit_val_batches=0, max_epochs=3, max_steps=-1)
    limited.fit(module(random_model), datamodule=rollouts(engine=engine))
    assert (limited.global_step, engine.asked) == (3, 4)  # two rounds of two problems


def test_limit_predict_batches(random_model, tmp_path):
    engine = CountingEngine()
    limited = run(tmp_path, limit_predict_batches=2)
    returned = limited.predict(module(random_model), datamodule=rollouts(engine=engine))
    assert (len(returned or []), engine.asked) == (2, 2)  # of six problems, one a batch


def test_validate_test_and_predict_after_fit_are_of_the_weights_of_now(random_model, tmp_path):
    """On the same Trainer, and the same as on another one with the same weights."""
    same, policy, rounds = run(tmp_path), module(random_model), rollouts()
    same.fit(policy, datamodule=rounds)
    assert policy.policy_version == 2
    other = run(tmp_path / "other")
    for command in ("validate", "test"):
        scores = getattr(same, command)(policy, datamodule=rounds)
        assert scores == getattr(other, command)(policy, datamodule=rounds)
        assert next(iter(scores[0])).startswith({"validate": "eval/", "test": "test/"}[command])
    texts = [
        [row["text"] for part in t.predict(policy, datamodule=rounds) or [] for row in part] for t in (same, other)
    ]
    assert len(texts[0]) == 6 * 2
    assert texts[0] == texts[1]
    assert policy.policy_version == 2


def test_lightnings_own_callbacks(random_model, tmp_path, capsys):
    """RichProgressBar, DeviceStatsMonitor and ModelSummary, and the file of CSVLogger."""
    callbacks = (RichProgressBar(refresh_rate=2), DeviceStatsMonitor(cpu_stats=True), ModelSummary(max_depth=2))
    policy = module(random_model)
    watched = trainer(tmp_path, *callbacks, MathEvaluation(), **ANYWHERE, max_steps=2, enable_progress_bar=True)
    watched.fit(policy, datamodule=rollouts())
    assert any(isinstance(c, RichProgressBar) for c in watched.callbacks)  # pyright: ignore  a chosen bar stays
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = {name for row in rows for name, value in row.items() if value}
    assert {"rollout/accuracy", "train/loss", "eval/avg@2", "credit/advantage_mean"} <= measured
    assert any(name.startswith("DeviceStatsMonitor.on_train_batch_end/cpu") for name in measured)
    assert "held-out accuracy" in capsys.readouterr().out


def needs(*packages: str) -> pytest.MarkDecorator:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} not installed")


def wandb_logger(folder: Path) -> Logger:
    return WandbLogger(project="p", save_dir=str(folder), offline=True)


def mlflow_logger(folder: Path) -> Logger:
    return MLFlowLogger("e", tracking_uri=f"file:{folder / 'mlruns'}", save_dir=str(folder / "mlruns"))


def trackio_logger(folder: Path) -> Logger:
    return TrackioLogger("p", "r", save_dir=str(folder))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: CSVLogger(folder), id="csv"),
        pytest.param(lambda folder: TensorBoardLogger(folder), id="tensorboard"),
        pytest.param(wandb_logger, id="wandb", marks=needs("wandb")),
        pytest.param(mlflow_logger, id="mlflow", marks=needs("mlflow", "pandas")),
        pytest.param(trackio_logger, id="trackio", marks=needs("trackio")),
    ],
)
def test_a_run_with_each_logger(random_model, tmp_path, monkeypatch, make):
    """Settings, metrics of rounds and steps, tables and checkpoints; the run's files are below the logger's folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_SILENT": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}.items():
        monkeypatch.setitem(os.environ, name, value)
    if make is trackio_logger:
        import trackio.sqlite_storage  # pyright: ignore[reportMissingImports]

        monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path)
        monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", tmp_path)
    logger = make(tmp_path / "logs")
    seen: dict[str, int] = {}
    log_metrics = logger.log_metrics

    def spy(metrics, step=None):
        seen.update(dict.fromkeys(metrics, step))
        log_metrics(metrics, step)

    monkeypatch.setattr(logger, "log_metrics", spy)
    fitted = run(tmp_path, SafeCheckpoint(), SolutionSamples(), MathEvaluation(), logger=logger)
    fitted.fit(module(random_model), datamodule=rollouts())
    assert {"rollout/accuracy": 0, "train/loss": 1, "eval/avg@2": 2}.items() <= seen.items()
    (last,) = tmp_path.rglob("last.ckpt")
    assert last.is_relative_to(tmp_path / "logs")
    assert list(last.parents[1].glob("rounds/round_*"))
