"""Write checkpoints to disk so that a crash or a full disk never leaves half of one under its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.checkpoint.api import CheckpointException

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.training.checkpoints.finding import ASIDE, PARTIAL, bring_back


@contextmanager
def archive_checksums() -> Iterator[None]:
    """Make ``torch.save`` write checksums into its archives, even if the program has switched them off."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def prepare_folder(folder: Path) -> None:
    """Check that the folder can be written, and remove the partial checkpoints of killed runs with a warning.

    Raises:
        StorageError: it cannot be written.
    """
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
        bring_back(folder)
        for leftover in folder.glob(f"*{PARTIAL}"):
            rank_zero_warn(f"{leftover} was not written to its end, by a run that was killed: removed")
            remove_checkpoint(leftover)
    except OSError as error:
        raise StorageError(
            f"checkpoints cannot be written to {folder} ({error.strerror or error}); make it writable, or set another dirpath "
            "of SafeCheckpoint or another trainer.default_root_dir"
        ) from error


def commit_checkpoint(partial: Path, path: Path) -> None:
    """Flush a written checkpoint to disk, then rename it to its final name.

    A folder cannot replace a folder: an existing sharded checkpoint is first moved aside and deleted at the end.
    """
    files = [partial] if partial.is_file() else [p for p in partial.rglob("*") if p.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    aside = path.with_name(path.name + ASIDE)
    if path.is_symlink() and partial.is_dir():
        path.unlink()
    elif path.is_dir() and not path.is_symlink():
        remove_checkpoint(aside)
        path.rename(aside)
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the new name durable before an older checkpoint is removed
    finally:
        os.close(folder)
    remove_checkpoint(aside)


def storage_failure(error: BaseException) -> BaseException | None:
    """Return the error of the disk behind a failed save, None if the cause is another."""
    if isinstance(error, CheckpointException):  # one failure for each rank that writes shards
        failures = (storage_failure(failure) for failure, _ in error.failures.values())
        return next((failure for failure in failures if failure is not None), None)
    if isinstance(error, RuntimeError) and ("PytorchStreamWriter" in str(error) or "inline_container" in str(error)):
        # torch's archive writer raises this while it handles the failed write, whose error says more.
        return error.__context__ if isinstance(error.__context__, OSError) else error
    return error if isinstance(error, OSError) else None


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint, a file or a folder; a link is deleted alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
