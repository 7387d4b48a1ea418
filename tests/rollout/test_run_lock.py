"""Two runs never write into one folder, whatever their loggers: a second one is refused before it touches anything."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_tpgrpo.callbacks import SafeCheckpoint
from lit_tpgrpo.errors import ConfigError, StorageError
from lit_tpgrpo.rollout.run_lock import FolderLock, RunLock
from tests.callbacks.test_evaluation import data, module

ROOT = Path(__file__).parent.parent.parent
HOLDER = """
import sys, time
from pathlib import Path
from lit_tpgrpo.rollout.run_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "")
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_lock_names_the_other_run_and_goes_with_it(tmp_path: Path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    said = (
        rf"{tmp_path}/run is in use by another run \(process {holder.pid} on {re.escape(socket.gethostname())}, since "
    )
    with pytest.raises(ConfigError, match=said + r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\); take another"):
        FolderLock(tmp_path / "run", "take another")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock = FolderLock(tmp_path / "run", "")
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on "):
        FolderLock(tmp_path / "run", "")
    lock.release()
    lock.release()
    FolderLock(tmp_path / "run", "").release()


def test_a_run_that_names_one_folder_in_two_ways_is_not_refused_by_itself(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run, other = RunLock(), RunLock()
    run._hold([tmp_path / "real", tmp_path / "link", tmp_path / "real" / ".." / "link"])
    with pytest.raises(ConfigError, match="in use by another run"):
        other._hold([tmp_path / "link"])
    run.release()
    other._hold([tmp_path / "link"])
    other.release()


def test_a_lock_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"nothing can be written to .*file/in \(Not a directory\)"):
        FolderLock(tmp_path / "file" / "in", "")


SECOND = """
import sys, warnings
from pathlib import Path
import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lit_tpgrpo import cli
from lit_tpgrpo.callbacks import SafeCheckpoint
from lit_tpgrpo.errors import ConfigError
from tests.callbacks.test_evaluation import data, module
from tests.rollout.test_run_folder import IdLogger

folder, model, quickstart = sys.argv[1:]
table, board = CSVLogger(folder, "table", "v"), TensorBoardLogger(folder, "board", "v")
elsewhere = lambda: CSVLogger(folder + "/elsewhere", "", "w")
for command, loggers, saver, options in (
    ("fit", [table], None, {}),
    ("fit", [board], None, {}),
    ("fit", [IdLogger(folder, "n", None), table], None, {}),
    ("fit", [IdLogger(folder, "board", "v")], None, {}),
    ("fit", [elsewhere()], SafeCheckpoint(folder + "/saved"), {}),
    ("fit", [elsewhere()], None, {"store_dir": folder + "/store"}),
    ("validate", [table], None, {}),
    ("validate", [board], None, {}),  # beside the others: not refused
):
    trainer = L.Trainer(accelerator="cpu", logger=loggers, callbacks=saver, enable_checkpointing=saver is not None,
        enable_progress_bar=False, enable_model_summary=False, max_steps=1, default_root_dir=folder + "/root",
        limit_val_batches=1)
    try:
        getattr(trainer, command)(module(model), datamodule=data(**options))
        print("ran", flush=True)
    except ConfigError as error:
        print(error, trainer.loggers == loggers, flush=True)
try:
    cli.main(["fit", "--config", quickstart, "--model.model", model, "--trainer.logger",
        "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", folder, "--trainer.logger.name", "table",
        "--trainer.logger.version", "v", "--trainer.accelerator", "cpu"])
except SystemExit as ended:
    print(ended, flush=True)
"""


class StartsSecond(L.Callback):
    """Starts further runs in a process of their own, in the midst of the first."""

    def __init__(self, *args: str) -> None:
        self.args, self.said, self.before, self.after = args, "", {}, {}

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            self.before = self.files()
            done = subprocess.run(
                [sys.executable, "-c", SECOND, *self.args], cwd=ROOT, capture_output=True, text=True, timeout=1200
            )
            assert done.returncode == 0, done.stderr[-3000:]
            self.said, self.after = done.stdout, self.files()

    def files(self) -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in sorted(Path(self.args[0]).rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_a_second_run_is_refused_before_its_loggers_write(random_model, tmp_path):
    """CSVLogger deleted the first run's metrics before the lock was seen."""
    second = StartsSecond(str(tmp_path), random_model, str(ROOT / "configs" / "quickstart.yaml"))
    table, board = (
        CSVLogger(tmp_path, "table", "v", flush_logs_every_n_steps=1),
        TensorBoardLogger(tmp_path, "board", "v"),
    )
    run = L.Trainer(
        accelerator="cpu",
        logger=[table, board],
        callbacks=[second, SafeCheckpoint(tmp_path / "saved")],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=3,
    )
    run.fit(module(random_model), datamodule=data(store_dir=str(tmp_path / "store")))
    lines = [line for line in second.said.splitlines() if line.startswith(("error: ", str(tmp_path), "ran"))]
    used = (
        rf" is in use by another run \(process {os.getpid()} on .*; stop that one, or give this one another folder: .*"
    )
    expected = ["table/v", "board/v", "table/v", "board/v", "saved", "store", "table/v", None, "table/v"]
    assert len(lines) == len(expected)
    for line, group_index in zip(lines, expected, strict=True):
        assert re.fullmatch("ran" if group_index is None else rf"(error: )?{tmp_path}/{group_index}{used}", line), line
    assert all(line.endswith(" True") for line in lines[:7])  # the refused run has its loggers again
    new = {p.relative_to(tmp_path) for p in second.after if p not in second.before}
    assert {p.parts[0] for p in new} <= {"root", "elsewhere", "board"}
    assert [p.parts[:2] for p in new if p.parts[0] == "board"] == [("board", "v")]  # of validate
    assert {p: second.after[p] for p in second.before} == second.before
    with (tmp_path / "table" / "v" / "metrics.csv").open() as file:
        assert {row["step"] for row in csv.DictReader(file)} >= {"0", "1", "2"}


def test_a_new_run_is_not_warned_of_its_own_files(random_model, tmp_path):
    """The lock's file lies in the folder before CSVLogger is opened, which takes it for an earlier run's log."""
    for options in ({"version": "v"}, {}):
        table = CSVLogger(tmp_path, "a", **options)
        run = L.Trainer(
            accelerator="cpu",
            logger=table,
            callbacks=SafeCheckpoint(),
            enable_progress_bar=False,
            enable_model_summary=False,
            max_steps=1,
            limit_val_batches=0,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".* exists and is not empty")
            run.fit(module(random_model), datamodule=data())
    again = L.Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path, "a", "v"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=1,
        limit_val_batches=0,
    )
    with pytest.warns(UserWarning, match="Experiment logs directory .*/a/v exists and is not empty"):
        again.fit(module(random_model), datamodule=data())
