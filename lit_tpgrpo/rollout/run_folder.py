"""The folder of a run: rounds, checkpoints, settings, exports and samples lie in it. A lock keeps other runs out."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import tempfile
import weakref
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lit_tpgrpo.errors import ConfigError, StorageError
from lit_tpgrpo.rollout.processes import failing_together, gather

log = logging.getLogger(__name__)

LOCK = ".lock"
_FOLDERS: weakref.WeakKeyDictionary[L.Trainer, Path] = weakref.WeakKeyDictionary()


def run_folder(trainer: L.Trainer) -> Path:
    """The run's folder, decided once a trainer; collective, like ``trainer.log_dir``.

    With TensorBoardLogger and CSVLogger it is their ``log_dir``; with other loggers ``save_dir/name/version``, where
    Lightning's ModelCheckpoint writes too (W&B: project and run id, MLflow: experiment and run id); without logger, or with
    one whose ``save_dir`` is not on a disk, a new ``version_N`` under ``default_root_dir``. Of several loggers the first
    counts. With ``fast_dev_run`` it is a temporary folder.

    Raises:
        StorageError: a new version folder cannot be created.
    """
    if trainer not in _FOLDERS:
        with failing_together("choosing the run's folder"):
            chosen = _chosen(trainer) if trainer.is_global_zero else Path()
        _FOLDERS[trainer] = gather(chosen)[0]
    return _FOLDERS[trainer]


def set_run_folder(trainer: L.Trainer, folder: Path) -> None:
    """Decide the run's folder, on all processes."""
    _FOLDERS[trainer] = folder


def _chosen(trainer: L.Trainer) -> Path:
    if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
        folder = tempfile.mkdtemp(prefix="fast_dev_run_")
        weakref.finalize(trainer, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)
    logger = trainer.loggers[0] if trainer.loggers else None
    named = None if logger is None else _named_by(logger, trainer.default_root_dir)
    return new_version(Path(trainer.default_root_dir)) if named is None else named


def _named_by(logger: Logger, root: str) -> Path | None:
    """None where the logger has no version of its own, or keeps it elsewhere than on a disk."""
    place = logger.save_dir or root
    if not _is_local_file_protocol(str(place)):
        return None
    if isinstance(logger, (TensorBoardLogger, CSVLogger)):
        return Path(logger.log_dir)
    if logger.version is None:
        return None
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(place, str(logger.name), version)


def new_version(root: Path) -> Path:
    """Create the next ``version_N`` in a folder; of two processes that ask at once each gets its own.

    Raises:
        StorageError: it cannot be created.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [p.name.removeprefix("version_") for p in root.glob("version_*")]
        number = max((int(name) + 1 for name in taken if name.isdecimal()), default=0)
        while True:
            with contextlib.suppress(FileExistsError):
                (root / f"version_{number}").mkdir()
                return root / f"version_{number}"
            number += 1
    except OSError as error:
        raise StorageError(
            f"no folder for the run can be created in {root} ({error.strerror or error}); make it writable, or set the "
            "logger's save_dir and trainer.default_root_dir to another folder"
        ) from error


class FolderLock:
    """Keeps a second run out of a folder for as long as this object holds it.

    The lock is the operating system's, on an open file: it goes with the process that holds it, however that ends. The file
    says who holds it.

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
                f"rounds cannot be stored in {folder} ({error.strerror or error}); free space, make it writable, or set "
                "data.store_dir"
            ) from error

    def _acquire(self, file: IO[str], remedy: str) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                log.warning(
                    "%s is on a file system without locks: see to it that no other run uses it", self.path.parent
                )
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = _holder(file)
            file.close()
            raise ConfigError(f"{self.path.parent} is in use by another run ({holder}); {remedy}") from error
        file.truncate(0)
        told = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().isoformat(" ", "seconds")}
        file.write(json.dumps(told))
        file.flush()

    def release(self) -> None:
        """Let another run in. The file stays: one that is deleted while another process opens it would lock nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        told: dict[str, Any] = json.loads(file.read())
        return f"process {told['pid']} on {told['host']}, since {told['since']}"
    except (ValueError, KeyError):  # it is just being written
        return "which has only just started"
