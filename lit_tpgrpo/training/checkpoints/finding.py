"""Find the checkpoint to resume from: the newest undamaged one of a run's folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.training.checkpoints.check import CheckpointError, fault_of
from lit_tpgrpo.training.checkpoints.shards import REST, TABLE

log = logging.getLogger(__name__)

PARTIAL = ".partial"
ASIDE = ".old" + PARTIAL  # a folder of shards that makes room for the next one of its name


def usable_checkpoint(path: Path, exact: bool | None = None) -> Path:
    """Return the checkpoint at ``path``, or in the run's folder ``path`` the newest whole one, by optimizer step.

    Args:
        path: a checkpoint file, a folder of shards, or a folder with checkpoints below it.
        exact: refuse a checkpoint that is damaged, rather than pass over it, with a warning, for the newest whole one beside it
            that is older. Default: True except for ``last``, which is not tied to a step.

    Raises:
        CheckpointError: the checkpoint is damaged, or nothing in the folder is whole.
        InputError: there is nothing at the path.
        UnsafeCheckpointError: a candidate could run code.
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
    candidates = _newest_first(path.parent.glob("*.ckpt") if named else _below(path, ".ckpt"))
    if named:
        # All others are older than ``last``, even where copying gave them later times.
        last = path.name.startswith("last")
        older = candidates if last else [p for p in candidates if _age(p) <= _age(path)]
        older = [p for p in older if p.resolve() != path.resolve()]
        if exact or (exact is None and not last):
            raise _named_is_damaged(path, older)
        candidates = [path, *older]
    for candidate in candidates:
        fault = fault_of(candidate)
        if fault is None:
            if candidate != path:
                log.warning("the checkpoint is %s", candidate)
            return candidate
        log.warning("the checkpoint %s is damaged (%s): it is not loaded", candidate, fault)
    raise CheckpointError(
        f"no whole checkpoint at ckpt_path {str(path)!r} ({len(candidates)} looked at); give another checkpoint or run folder, "
        "or start a new run without --ckpt_path"
    )


def _named_is_damaged(path: Path, older: list[Path]) -> CheckpointError:
    whole = next((p for p in older if fault_of(p) is None), None)
    remedy = "no older one beside it is whole" if whole is None else f"the newest whole one before it is {whole}"
    return CheckpointError(f"the checkpoint {path} is damaged ({fault_of(path)}): it is not loaded; {remedy}")


def bring_back(folder: Path) -> None:
    """Rename back the folders of shards that a killed run had moved aside and not yet replaced."""
    for aside in list(_below(folder, ASIDE)):
        _rename(aside)


def _rename(aside: Path) -> None:
    path = aside.with_name(aside.name.removesuffix(ASIDE))
    if aside.exists() and not path.exists():
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            aside.rename(path)


def _below(folder: Path, ending: str) -> Iterator[Path]:
    """Yield files and folders with that ending; skip those that vanish meanwhile."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files) if name.endswith(ending))


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    """Sort checkpoints, the newest first; ``last`` before one of the same time."""
    candidates = [p for p in paths if p.is_file() or p.is_dir()]
    return sorted(candidates, key=lambda p: (-_step(p), -_age(p), not p.name.startswith("last")))


def _step(path: Path) -> int:
    """Return the optimizer steps of a checkpoint without reading its tensors.

    One that cannot be read sorts first, so that it is reported as damaged and not skipped silently.
    """
    try:
        content: Any = torch.load(
            path if path.is_file() else path / REST, map_location="cpu", weights_only=True, mmap=True
        )
        return int(content["global_step"])
    except Exception:  # a torn archive raises anything
        return 1 << 62


def _age(path: Path) -> int:
    """Return when it was written, in nanoseconds since the epoch."""
    rest = path / REST
    try:
        return (rest if rest.exists() else path).lstat().st_mtime_ns
    except FileNotFoundError:  # deleted meanwhile
        return 0


def _is_sharded(path: Path) -> bool:
    """Tell whether it is a folder of shards, even a damaged one that lost one of its files."""
    return (path / REST).exists() or (path / TABLE).exists() or any(path.glob("*.distcp"))
