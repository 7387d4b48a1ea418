"""Each run has a folder of its own whatever its loggers."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.rollout.run_folder import new_version, run_folder, share_versions


class IdLogger(Logger):
    """Has a save_dir, a name and a version, and no log_dir, as the loggers of W&B, MLflow and Comet."""

    def __init__(self, save_dir: str | None, name: str | None, version: str | int | None) -> None:
        super().__init__()
        self._told = SimpleNamespace(save_dir=save_dir, name=name, version=version)

    save_dir = property(lambda self: self._told.save_dir)
    name = property(lambda self: self._told.name)
    version = property(lambda self: self._told.version)

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def trainer(tmp_path: Path, logger: object, **kwargs) -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=logger, default_root_dir=tmp_path / "root", **kwargs)  # pyright: ignore


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        (lambda t: TensorBoardLogger(t, name="a"), "a/version_0"),
        (lambda t: TensorBoardLogger(t, name="a", version="b", sub_dir="c"), "a/b/c"),
        (lambda t: CSVLogger(t, name="", version="run"), "run"),
        (lambda t: IdLogger(f"{t}/wandb", "project", "x1y2"), "wandb/project/x1y2"),
        (lambda t: IdLogger(None, "experiment", "run id"), "root/experiment/run id"),
        (lambda t: IdLogger("d", "n", 3), "d/n/version_3"),
        (lambda t: [IdLogger(str(t), "n", "1"), CSVLogger(t)], "n/1"),
        (lambda t: False, "root/version_0"),
        (lambda t: IdLogger(str(t), "n", None), "root/version_0"),
        (lambda t: IdLogger("s3://bucket/d", "n", "1"), "root/version_0"),
    ],
    ids=[
        "tensorboard",
        "sub_dir",
        "csv",
        "wandb",
        "mlflow server",
        "number",
        "several",
        "none",
        "no version",
        "bucket",
    ],
)
def test_a_run_has_the_folder_of_its_logger_or_a_new_one(tmp_path: Path, monkeypatch, logger, expected: str):
    monkeypatch.chdir(tmp_path)
    run = trainer(tmp_path, logger(tmp_path))
    assert run_folder(run).absolute() == tmp_path / expected
    assert run_folder(run).absolute() == tmp_path / expected  # and keeps it


def test_runs_without_logger_do_not_share_a_folder(tmp_path: Path):
    (tmp_path / "root" / "version_x").mkdir(parents=True)
    (tmp_path / "root" / "version_7").mkdir()
    assert [run_folder(trainer(tmp_path, False)).name for _ in range(3)] == ["version_8", "version_9", "version_10"]


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: new_version(tmp_path), range(40)))
    assert sorted(int(p.name.removeprefix("version_")) for p in found) == list(range(40))


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"no folder for the run can be created in .*file/in \(Not a directory\)"):
        new_version(tmp_path / "file" / "in")


def test_fast_dev_run_leaves_nothing(tmp_path: Path):
    run = trainer(tmp_path, CSVLogger(tmp_path), fast_dev_run=True)
    folder = run_folder(run)
    assert folder.is_dir()
    assert tmp_path not in folder.parents or not list(tmp_path.iterdir())
    del run
    gc.collect()
    assert not folder.exists()


def test_loggers_of_one_run_share_its_version(tmp_path: Path):
    (tmp_path / "a" / "version_3").mkdir(parents=True)
    board, table = TensorBoardLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="a")
    other, chosen = CSVLogger(tmp_path, name="b"), CSVLogger(tmp_path, name="a", version="mine")
    share_versions([IdLogger(str(tmp_path), "a", None), board, table, other, chosen])
    assert (board.version, table.version, other.version, chosen.version) == (4, 4, 0, "mine")
    assert Path(board.log_dir) == Path(table.log_dir) == tmp_path / "a" / "version_4"
    assert (tmp_path / "a" / "version_4").is_dir()  # no other run gets it
    assert (tmp_path / "b" / "version_0").is_dir()
    first, second = CSVLogger(tmp_path, name="a", version="x"), TensorBoardLogger(tmp_path, name="a")
    share_versions([first, second])
    assert second.log_dir == first.log_dir == str(tmp_path / "a" / "x")
