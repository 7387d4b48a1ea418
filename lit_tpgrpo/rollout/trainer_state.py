"""What the Trainer knows about its run and Lightning's types do not say: dev runs, time limits, batches, precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.plugins import MixedPrecision

from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.errors import ConfigError


def policy_of(trainer: L.Trainer) -> Policy:
    """Return the trainer's module as the policy that an engine samples from.

    Raises:
        ConfigError: it lacks part of ``Policy``.
    """
    module = trainer.lightning_module
    if not isinstance(module, Policy):
        raise ConfigError(
            f"MathRolloutDataModule samples from the trainer's module, and {type(module).__name__} lacks part of "
            "lit_tpgrpo.engines.base.Policy (policy_model, tokenizer, policy_version, named_tensors); use "
            "TPGRPOModule or add them"
        )
    return module


def is_dev_run(trainer: L.Trainer) -> bool:
    """Return whether ``fast_dev_run`` is on: such a run leaves nothing behind."""
    return dev_run_steps(trainer) is not None


def dev_run_steps(trainer: L.Trainer) -> int | None:
    """Return the optimizer steps that ``fast_dev_run`` allows, None where it is off."""
    return int(trainer.fast_dev_run) or None  # pyright: ignore[reportAttributeAccessIssue]


def callbacks_of(trainer: L.Trainer) -> list[L.Callback]:
    """Return the trainer's own list of callbacks."""
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]


def epochs_processed(trainer: L.Trainer) -> int:
    """Return the epochs that ``fit`` has been through, the one whose end hooks are running included."""
    return cast(_ProcessedTracker, trainer.fit_loop.epoch_progress.current).processed


def no_batch_in_progress(trainer: L.Trainer) -> bool:
    """Return whether every training batch that was started was also processed: no optimizer step is half done."""
    batches = cast(_ProcessedTracker, trainer.fit_loop.epoch_loop.batch_progress.total)
    return batches.processed == batches.started


def is_out_of_time(trainer: L.Trainer) -> bool:
    """Return whether ``max_time`` (a Timer) is over and training may end. Lightning looks at optimizer steps only."""
    left = [c.time_remaining() for c in callbacks_of(trainer) if isinstance(c, Timer)]
    return any(t is not None and t <= 0 for t in left) and trainer.fit_loop._can_stop_early


def batch_limit(trainer: L.Trainer, batches: Callable[[L.Trainer], list[int | float]]) -> int | None:
    """Return how many batches Lightning will take of our loader, None where it takes all or has other loaders too.

    Args:
        batches: reads Lightning's numbers, one per loader, e.g. ``lambda t: t.num_val_batches``.
    """
    wanted = batches(trainer)
    return int(wanted[0]) if len(wanted) == 1 and math.isfinite(wanted[0]) else None


def sampling_precision(trainer: L.Trainer) -> AbstractContextManager[object]:
    """Return the autocast context of training, so that under mixed precision sampling uses the same arithmetic."""
    plugin = trainer.precision_plugin
    return plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext()


def overfit_steps(trainer: L.Trainer, steps_per_epoch: Callable[[], int]) -> int | None:
    """Return the optimizer steps an epoch that ``overfit_batches`` leaves, None where it is off.

    Args:
        steps_per_epoch: of which a fraction is taken, as Lightning takes it of the loader's length.
    """
    wanted = trainer.overfit_batches  # pyright: ignore[reportAttributeAccessIssue]
    steps = wanted if isinstance(wanted, int) else int(wanted * steps_per_epoch())
    return steps or None


def may_stop(trainer: L.Trainer) -> bool:
    """Return whether training was asked to stop and ``min_steps`` and ``min_epochs`` allow it."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def run_ends(trainer: L.Trainer) -> bool:
    """Return whether training ends with the epoch that has just ended."""
    steps, epochs = trainer.max_steps, trainer.max_epochs
    limited = trainer.global_step >= steps >= 0 or (epochs is not None and epochs_processed(trainer) >= epochs >= 0)
    return limited or may_stop(trainer)


def takes_last_step(trainer: L.Trainer) -> bool:
    """Return whether ``fit`` takes no optimizer step after the one that it is at, whose evaluation may be running."""
    loop, epochs = trainer.fit_loop, trainer.max_epochs
    begun = cast(_ProcessedTracker, loop.epoch_progress.current).started
    last_batch = loop.epoch_loop.batch_progress.is_last_batch
    return run_ends(trainer) or (last_batch and epochs is not None and begun >= epochs >= 0)


def steps_left(trainer: L.Trainer) -> float:
    """Return how many optimizer steps ``fit`` takes from here on at most: those of ``max_steps`` and ``max_epochs``, or inf."""
    return trainer.estimated_stepping_batches - trainer.global_step


def log_to_all(trainer: L.Trainer, metrics: Mapping[str, float]) -> None:
    """Send metrics to every logger, at the current optimizer step, and to callbacks that monitor one. On all ranks."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)
    trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in metrics.items()})
