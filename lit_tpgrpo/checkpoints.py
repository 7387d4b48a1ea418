"""Finding a checkpoint to go on from: the newest whole one of a run's folder; one that was cut short is never loaded."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from lit_tpgrpo.errors import InputError

log = logging.getLogger(__name__)

SHARDS = ".metadata"
REST = "meta.pt"  # Lightning's name for what is not sharded
PARTIAL = ".partial"
ASIDE = ".old" + PARTIAL  # a folder of shards that makes room for the next one of its name


def usable_checkpoint(path: Path) -> Path:
    """The checkpoint at ``path``, or in the run's folder ``path`` the newest whole one, by optimizer step.

    One that is damaged is passed over, with a warning, for the newest whole one beside it that is older.

    Raises:
        InputError: there is nothing at the path, or nothing whole.
    """
    _rename(path.with_name(path.name + ASIDE))
    bring_back(path)
    if not path.exists() and not path.is_symlink():
        raise InputError(
            f"ckpt_path {str(path)!r} does not exist (looked at {path.absolute()}); give a checkpoint, such as "
            "checkpoints/last.ckpt in the run's version folder, or that folder itself"
        )
    named = not path.is_dir() or _is_sharded(path)
    if named and fault_of(path) is None:
        return path
    found = _newest_first(path.parent.glob("*.ckpt") if named else _below(path, ".ckpt"))
    if named:
        # The last one's elders are all others, whatever the clock says of their copies.
        older = found if path.name.startswith("last") else [p for p in found if _age(p) <= _age(path)]
        found = [path, *(p for p in older if p.resolve() != path.resolve())]
    for candidate in found:
        fault = fault_of(candidate)
        if fault is None:
            if candidate != path:
                log.warning("the checkpoint is %s", candidate)
            return candidate
        log.warning("the checkpoint %s is not whole (%s): it is not loaded", candidate, fault)
    raise InputError(
        f"no whole checkpoint at ckpt_path {str(path)!r} ({len(found)} looked at); give another checkpoint or run folder, or "
        "start anew without --ckpt_path"
    )


def bring_back(folder: Path) -> None:
    """Give folders of shards their names back that a run was killed over, between moving the old aside and the new in."""
    for aside in list(_below(folder, ASIDE)):
        _rename(aside)


def _rename(aside: Path) -> None:
    place = aside.with_name(aside.name.removesuffix(ASIDE))
    if aside.exists() and not place.exists():
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            aside.rename(place)


def _below(folder: Path, ending: str) -> Iterator[Path]:
    """Files and folders of that ending; those that go while it looks are left out."""
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files) if name.endswith(ending))


def check_contents(path: Path) -> None:
    """Check that a whole checkpoint is one of a Trainer, without reading its tensors.

    One that holds more than tensors and plain values is left to what loads it, which says so.

    Raises:
        InputError: it is of another program, or of other contents, such as a state dict alone.
    """
    sharded = path.is_dir()
    wanted = {"global_step", "pytorch-lightning_version"} | (set() if sharded else {"state_dict"})
    try:
        content: Any = torch.load(path / REST if sharded else path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
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
    """What is wrong with a checkpoint (a file, or a folder of shards), None where it is whole."""
    if path.is_file():
        return _zip_fault(path)
    rest = path / REST
    if not rest.is_file() or not (path / SHARDS).is_file():
        return f"{REST if not rest.is_file() else SHARDS} is missing"
    if fault := _zip_fault(rest):
        return fault
    try:
        parts = FileSystemReader(path).read_metadata().storage_data.values()
    except Exception as error:  # a torn pickle raises anything
        return f"{SHARDS} cannot be read: {type(error).__name__}"
    for part in parts:
        file = path / part.relative_path
        if not file.is_file() or file.stat().st_size < part.offset + part.length:
            return f"{part.relative_path} is missing or cut short"
    return None


def _zip_fault(path: Path) -> str | None:
    """torch.save writes a zip archive, whose table of contents comes last."""
    try:
        with zipfile.ZipFile(path) as archive:
            return None if archive.namelist() else "it is empty"
    except (zipfile.BadZipFile, OSError) as error:
        return str(error)


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    """Checkpoints, the newest first; ``last`` before one of the same moment."""
    found = [p for p in paths if p.is_file() or p.is_dir()]
    return sorted(found, key=lambda p: (-_step(p), -_age(p), not p.name.startswith("last")))


def _step(path: Path) -> int:
    """Optimizer steps behind a checkpoint, without reading its tensors. One that cannot be read comes first: it is then
    named as damaged, not passed over in silence."""
    try:
        content: Any = torch.load(
            path if path.is_file() else path / REST, map_location="cpu", weights_only=True, mmap=True
        )
        return int(content["global_step"])
    except Exception:  # a torn archive raises anything
        return 1 << 62


def _age(path: Path) -> int:
    """When it was written, in nanoseconds since the epoch."""
    rest = path / REST
    try:
        return (rest if rest.exists() else path).lstat().st_mtime_ns
    except FileNotFoundError:  # it went in the meantime
        return 0


def _is_sharded(path: Path) -> bool:
    """Also of a damaged one, which may have lost either of these, or both."""
    return (path / REST).exists() or (path / SHARDS).exists() or any(path.glob("*.distcp"))
