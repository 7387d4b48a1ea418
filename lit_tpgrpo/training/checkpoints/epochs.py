"""Correct the epoch counters of a checkpoint that is saved when an epoch was cut short."""

from __future__ import annotations

from typing import Any

import lightning as L


def reopen_epoch(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Mark an epoch that was cut short as unfinished in the checkpoint's loop counters.

    Lightning counts it as done: a run resumed from such a checkpoint would already have reached ``max_epochs``.
    """
    if "loops" not in checkpoint:  # weights alone
        return
    loop = checkpoint["loops"]["fit_loop"]
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
    cut_short = not batches["is_last_batch"] and batches["current"]["processed"] < trainer.num_training_batches
    if cut_short and epochs["current"]["started"] > 0:
        for counts in (epochs["total"], epochs["current"]):
            counts["processed"] = counts["completed"] = counts["started"] - 1
        checkpoint["epoch"] = epochs["current"]["processed"]
