"""Keep other runs out of the folders that a run writes to, from before its loggers are opened until it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import warnings
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.trainer.states import TrainerFn

from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.errors import ConfigError, StorageError
from lit_tpgrpo.rollout.run_folder import early_folder, run_folder, share_versions, writes_versions
from lit_tpgrpo.rollout.trainer_state import is_dev_run

log = logging.getLogger(__name__)

LOCK = ".lock"
_REMEDY = (
    "stop that one, or give this one another folder: the logger's name or version, data.store_dir, or the checkpoint "
    "callback's dirpath"
)


class RunLock:
    """Lock the folders that a run writes to: the run's folder, those of its loggers and checkpoints, and its rounds'.

    Lightning opens the loggers before any ``setup`` hook: CSVLogger then deletes the metrics it finds, TensorBoardLogger adds
    a file. ``prepare_data`` is the last hook before, and of the global zero process alone. A run that is refused there is left
    without loggers until ``confirm``, where all processes can raise together.

    Not locked: loggers that the user's own code opens before ``fit``, those that keep their runs on a server, and
    folders on a file system without locks.
    """

    def __init__(self) -> None:
        self._held: dict[Path, FolderLock] = {}
        self._error: Exception | None = None
        self._loggers: list[Logger] = []

    def take(self, trainer: L.Trainer, store_dir: str | None) -> None:
        """Lock the folders that are known before the loggers are opened. On rank 0."""
        try:
            share_versions(trainer.loggers)
            tables = [x for x in trainer.loggers if writes_versions(x) and isinstance(x, CSVLogger)]
            before = {table: _empty(table) for table in tables}
            folder = early_folder(trainer)
            self._hold([*_log_folders(trainer), *_run_folders(trainer, folder, store_dir)])
            self._hold([f for f in _checkpoint_folders(trainer) if not self._held.keys() & {*f.parents}])
            for table, empty in before.items():
                _open(table, empty)
        except Exception as error:
            self._error, self._loggers, trainer.loggers = error, trainer.loggers, []

    def confirm(self, trainer: L.Trainer, store_dir: str | None) -> None:
        """Raise the error of ``take`` on all ranks, and lock a folder that is known only now. Collective.

        Raises:
            ConfigError: another run holds one of the folders.
            StorageError: one cannot be written.
        """
        with raise_on_all_ranks("locking the run's folder"):
            if self._error is not None:
                error, self._error, trainer.loggers = self._error, None, self._loggers
                raise error
        folder = run_folder(trainer)
        with raise_on_all_ranks("locking the run's folder"):
            if trainer.is_global_zero:
                self._hold(_run_folders(trainer, folder, store_dir))

    def _hold(self, folders: list[Path]) -> None:
        for folder in sorted({f.resolve() for f in folders} - self._held.keys()):
            self._held[folder] = FolderLock(folder, _REMEDY)

    def release(self) -> None:
        """Release all locks."""
        while self._held:
            self._held.popitem()[1].release()


def _run_folders(trainer: L.Trainer, folder: Path | None, store_dir: str | None) -> list[Path]:
    """Return the folders of run and rounds to lock. Evaluations share a folder."""
    if trainer.state.fn not in (TrainerFn.FITTING, TrainerFn.PREDICTING):
        return []
    store = folder / "rounds" if store_dir is None and folder is not None else store_dir
    return [Path(f) for f in (folder, store) if f is not None]


def _log_folders(trainer: L.Trainer) -> list[Path]:
    """Return the log folders to lock. An evaluation's TensorBoard file may lie beside others."""
    fits = trainer.state.fn == TrainerFn.FITTING
    return [Path(x.log_dir) for x in trainer.loggers if writes_versions(x) and (fits or isinstance(x, CSVLogger))]


def _checkpoint_folders(trainer: L.Trainer) -> list[Path]:
    """Return the configured checkpoint folders."""
    if trainer.state.fn != TrainerFn.FITTING or is_dev_run(trainer):
        return []
    given = [c.dirpath for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    return [Path(f).resolve() for f in given if f is not None and _is_local_file_protocol(str(f))]


def _empty(logger: CSVLogger) -> bool:
    folder = Path(logger.log_dir)
    return not folder.is_dir() or not any(folder.iterdir())


def _open(logger: CSVLogger, empty: bool) -> None:
    """Open it now: later it would take the lock's file for the log of an earlier run, and warn of it."""
    with warnings.catch_warnings():
        if empty:
            warnings.filterwarnings("ignore", message="Experiment logs directory")
        _ = logger.experiment


class FolderLock:
    """Lock a folder against other runs until ``release``.

    The lock is the operating system's, on an open file, so it ends with the process in any case. The file names the holder.

    Raises:
        ConfigError: another run holds it; the message says which.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, remedy: str) -> None:
        self.path = folder / LOCK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] | None = self.path.open("a+")
            self._acquire(self._file, remedy)
        except OSError as error:
            raise StorageError(
                f"nothing can be written to {folder} ({error.strerror or error}); free space, make it writable, or set another "
                "one: the logger's save_dir, trainer.default_root_dir, data.store_dir"
            ) from error

    def _acquire(self, file: IO[str], remedy: str) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                log.warning(
                    "%s is on a file system without locks: make sure that no other run uses it", self.path.parent
                )
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = _holder(file)
            file.close()
            raise ConfigError(f"{self.path.parent} is in use by another run ({holder}); {remedy}") from error
        file.truncate(0)
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().isoformat(" ", "seconds")}
        file.write(json.dumps(holder))
        file.flush()

    def release(self) -> None:
        """Release the lock. The file stays: deleting it while another process opens it would defeat that lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder: dict[str, Any] = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):  # it is just being written, or was edited
        return "which has only just started"
