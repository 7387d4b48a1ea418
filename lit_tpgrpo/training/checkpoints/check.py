"""Check a checkpoint before anything loads it: all parts present, checksums right, plain types only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from lit_tpgrpo.checksums import CHECKSUMS, checksum_fault
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.training.checkpoints.archives import archive_fault
from lit_tpgrpo.training.checkpoints.shards import REST, TABLE, ForbiddenTypeError, item_fault, load_value, read_table

_TRUST = (
    "holds more than tensors and plain values, which could run code when loaded; it is not loaded. Checkpoints of this package "
    "hold nothing else"
)
_checked: set[tuple[Any, ...]] = set()  # intact checkpoints by names, sizes and times: not read twice


class CheckpointError(InputError):
    """A checkpoint is damaged."""


class UnsafeCheckpointError(InputError):
    """A checkpoint could run code when it is loaded."""


def check_checkpoint(path: Path, weights_only: bool = True) -> None:
    """Check a checkpoint (a file, or a folder of shards) without loading it.

    It is read once, as fast as a CRC-32 is computed (docs/resuming.md).

    Args:
        path: of the checkpoint.
        weights_only: refuse what holds more than tensors and plain values. A folder's table is of known types in any case.

    Raises:
        CheckpointError: it is damaged; the message says where.
        UnsafeCheckpointError: it could run code.
    """
    if fault := fault_of(path):
        raise CheckpointError(
            f"the checkpoint {path} is damaged ({fault}): it is not loaded; give another one, or the run's folder for its "
            "newest whole one"
        )
    if weights_only:
        _check_types(path)


def check_contents(path: Path) -> None:
    """Check that a whole checkpoint is one of a Trainer, without reading its tensors.

    Raises:
        InputError: it is of another program, or of other contents, such as a state dict alone.
    """
    sharded = path.is_dir()
    wanted = {"global_step", "pytorch-lightning_version"} | (set() if sharded else {"state_dict"})
    try:
        content: Any = torch.load(path / REST if sharded else path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:  # the user has it loaded all the same
        return
    except RuntimeError as error:  # an archive of another program
        raise InputError(f"ckpt_path {str(path)!r} is no checkpoint: {str(error).splitlines()[0]}") from error
    missing = sorted(wanted - set(content)) if isinstance(content, dict) else sorted(wanted)
    if missing:
        raise InputError(
            f"ckpt_path {str(path)!r} is no checkpoint of a Lightning Trainer: it has no {', '.join(missing)}. Give one that a "
            "run saved; weights alone go into model.model, as a folder in Hugging Face's format"
        )


def fault_of(path: Path) -> str | None:
    """Return the damage to a checkpoint (a file, or a folder of shards), or None if it is intact.

    A folder of shards without its checksums, as Lightning's own ModelCheckpoint writes it, is checked by those that torch
    gives each tensor; its table has none then.

    Raises:
        UnsafeCheckpointError: the table of a folder of shards could run code.
    """
    signature = _signature(path)
    if signature in _checked:
        return None
    fault = _folder_fault(path) if path.is_dir() else archive_fault(path)
    if fault is None:
        _checked.add(signature)
    return fault


def _folder_fault(folder: Path) -> str | None:
    for name in (REST, TABLE):
        if not (folder / name).is_file():
            return f"{name} is missing"
    try:
        items = read_table(folder)
    except ForbiddenTypeError as error:
        raise UnsafeCheckpointError(f"the checkpoint {folder} {_TRUST} ({TABLE} names {error})") from error
    except (ValueError, OSError) as error:
        return str(error)
    summed = (folder / CHECKSUMS).exists()
    for item in items:
        if fault := item_fault(folder, item, read=not summed):
            return fault
    if summed and (fault := checksum_fault(folder, {REST, TABLE, *(item.file for item in items)})):
        return fault
    fault = archive_fault(folder / REST)
    return None if fault is None else f"{REST}: {fault}"


def _check_types(path: Path) -> None:
    part = path
    try:
        if path.is_dir():
            for item in read_table(path):
                if not item.tensor:
                    part = path / item.name
                    load_value(path, item)
            part = path / REST
        torch.load(part, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(
            f"the checkpoint {path} {_TRUST}. If you trust where it comes from, give --weights_only false (weights_only=False "
            "in Python)"
        ) from error
    except Exception as error:  # intact but unreadable: written by another program, which may raise anything
        raise InputError(f"ckpt_path {str(part)!r} is no checkpoint: {str(error).splitlines()[0]}") from error


def _signature(path: Path) -> tuple[Any, ...]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    try:
        stats = [(file.name, file.stat()) for file in files]
    except OSError:  # a dangling link, or it is being deleted
        return (path, None)
    return (str(path.absolute()), *((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats))
