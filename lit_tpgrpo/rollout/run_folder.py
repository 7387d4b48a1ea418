"""The folder of a run, which holds its rounds, checkpoints, settings, exports and samples."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import lightning as L
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lit_tpgrpo.distributed import gather, raise_on_all_ranks
from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.rollout.trainer_state import is_dev_run

_FOLDERS: weakref.WeakKeyDictionary[L.Trainer, Path] = weakref.WeakKeyDictionary()
_CHOSEN: weakref.WeakKeyDictionary[L.Trainer, Path] = weakref.WeakKeyDictionary()  # not yet known to all processes


def run_folder(trainer: L.Trainer) -> Path:
    """Return the run's folder, chosen once per trainer; collective, like ``trainer.log_dir``.

    With TensorBoardLogger and CSVLogger it is their ``log_dir``; with other loggers ``save_dir/name/version``, where
    Lightning's ModelCheckpoint writes too (W&B: project and run id, MLflow: experiment and run id); without logger, or with
    one whose ``save_dir`` is not on a disk, a new ``version_N`` under ``default_root_dir``. Of several loggers the first
    counts. With ``fast_dev_run`` it is a temporary folder.

    Raises:
        StorageError: a new version folder cannot be created.
    """
    if trainer not in _FOLDERS:
        with raise_on_all_ranks("choosing the run's folder"):
            chosen = (_CHOSEN.get(trainer) or _chosen(trainer)) if trainer.is_global_zero else Path()
        _FOLDERS[trainer] = gather(chosen)[0]
    return _FOLDERS[trainer]


def set_run_folder(trainer: L.Trainer, folder: Path) -> None:
    """Set the run's folder, on all ranks."""
    _FOLDERS[trainer] = folder


def early_folder(trainer: L.Trainer) -> Path | None:
    """Decide the folder before the loggers are opened, on the global zero process, for ``run_folder`` to share with all.

    Returns:
        None where the first logger gets its version only when it is opened (a new run of W&B): nothing lies there yet.

    Raises:
        StorageError: a new version folder cannot be created.
    """
    if (folder := _FOLDERS.get(trainer) or _CHOSEN.get(trainer)) is not None:
        return folder
    logger = trainer.loggers[0] if trainer.loggers else None
    local = logger is not None and _is_local_file_protocol(str(logger.save_dir or trainer.default_root_dir))
    if logger is not None and local and logger.version is None and not is_dev_run(trainer):
        return None
    _CHOSEN[trainer] = _chosen(trainer)
    return _CHOSEN[trainer]


def share_versions(loggers: Sequence[Logger]) -> None:
    """Give each logger without a version that of an earlier one that counts in the same folder, else a new one.

    Lightning gives each the next number that is free when it is asked: two loggers of one run had two folders.

    Raises:
        StorageError: a new version folder cannot be created.
    """
    shared: dict[Path, int | str] = {}
    for logger in filter(writes_versions, loggers):
        root = logger.root_dir
        if isinstance(logger, TensorBoardLogger):
            root = os.path.expanduser(os.path.expandvars(root))
        root = Path(root).absolute()
        if logger._version is None:
            logger._version = shared.get(root)
        if logger._version is None:
            logger._version = int(new_version(root).name.removeprefix("version_"))
        shared.setdefault(root, logger._version)


def writes_versions(logger: Logger) -> TypeGuard[TensorBoardLogger | CSVLogger]:
    """Return whether the logger numbers its runs in a folder on a disk."""
    return isinstance(logger, (TensorBoardLogger, CSVLogger)) and _is_local_file_protocol(str(logger.save_dir))


def _chosen(trainer: L.Trainer) -> Path:
    if is_dev_run(trainer):
        folder = tempfile.mkdtemp(prefix="fast_dev_run_")
        weakref.finalize(trainer, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)
    logger = trainer.loggers[0] if trainer.loggers else None
    named = None if logger is None else _named_by(logger, trainer.default_root_dir)
    return new_version(Path(trainer.default_root_dir)) if named is None else named


def _named_by(logger: Logger, root: str) -> Path | None:
    """Return the folder by the logger's name and version, None if it has no version or does not write to a disk."""
    save_dir = logger.save_dir or root
    if not _is_local_file_protocol(str(save_dir)):
        return None
    if writes_versions(logger):
        return Path(logger.log_dir)
    if logger.version is None:
        return None
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(save_dir, str(logger.name), version)


def new_version(root: Path) -> Path:
    """Create the next ``version_N`` in a folder; two processes that ask at the same time get different ones.

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
