"""Load checkpoints, after checking them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.fabric.utilities.load import _load_distributed_checkpoint
from torch.distributed.checkpoint.api import CheckpointException

from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.training.checkpoints.check import check_checkpoint


def check_before_loading(trainer: L.Trainer) -> None:
    """Check every checkpoint before the trainer loads it.

    Every command loads checkpoints, given ones and those that Lightning looks for (``last``, ``best``, a requeued SLURM job's),
    through one method of the strategy, which gets the check here. ``weights_only`` is then True unless it is set. One process
    of each machine checks; all stop if it fails.
    """
    strategy = trainer.strategy
    load = strategy.load_checkpoint
    if getattr(load, "checks_first", False):
        return

    def checked(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        weights_only = weights_only is not False
        with raise_on_all_ranks("checking the checkpoint"):
            if trainer.local_rank == 0:
                checked_path(checkpoint_path, weights_only)
        try:
            return load(checkpoint_path, weights_only=weights_only)
        except CheckpointException as error:  # of shards; no Exception to Python
            reasons = sorted({f"{type(e).__name__}: {e}".splitlines()[0] for e, _ in error.failures.values()})
            raise InputError(
                f"the shards of {checkpoint_path} do not fit this run ({'; '.join(reasons)[:300]}); set model.model, "
                "model.adapter and the optimizer as in the run's config.yaml, or give another checkpoint"
            ) from error

    checked.checks_first = True  # pyright: ignore[reportFunctionMemberAccess]
    strategy.load_checkpoint = checked


def checked_path(path: Any, weights_only: bool = True) -> Any:
    """Check a checkpoint if it is a path on a disk, and return it as it is.

    Raises:
        InputError: it is damaged, could run code, or is not there.
    """
    if not isinstance(path, (str, os.PathLike)) or not _is_local_file_protocol(str(path)):
        return path
    local = Path(path).expanduser()
    if not local.exists():
        raise InputError(f"the checkpoint {local} does not exist (looked at {local.absolute()})")
    check_checkpoint(local, weights_only)
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to CPU, merging shards; tensors and plain values only.

    Raises:
        InputError: it is damaged, or could run code.
    """
    check_checkpoint(path)
    if path.is_file():
        return torch.load(path, map_location="cpu", weights_only=True)
    return _load_distributed_checkpoint(path)
