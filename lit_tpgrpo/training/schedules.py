"""Learning rate schedules for YAML: transformers' warm-up schedules over the length of the run, and sequences of schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, SequentialLR

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError

ScheduleName = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]


@checked_arguments()
class TransformersLR(LambdaLR):
    """One of transformers' schedules (``transformers.get_scheduler``): lr(t) = lr * f(t), t the optimizer steps taken.

    Args:
        optimizer: whose learning rate is scheduled.
        name: as transformers names it; ``linear`` and ``cosine`` fall to 0 after the last step.
        warmup_steps: steps over which the learning rate rises from 0.
        total_steps: the schedule's length; by default the run's, from ``trainer.max_steps`` and ``trainer.max_epochs``.
        options: the schedule's further arguments, e.g. ``{"min_lr_rate": 0.1}`` of ``cosine_with_min_lr``.

    Raises:
        ConfigError: transformers refuses these arguments.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        name: ScheduleName = "cosine",
        warmup_steps: int = 0,
        total_steps: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        if warmup_steps < 0 or (total_steps is not None and total_steps < 1):
            raise ConfigError(
                f"TransformersLR needs warmup_steps of at least 0 and total_steps of at least 1, got {warmup_steps} and "
                f"{total_steps}"
            )
        self.follows_run = total_steps is None
        self._rate = float(optimizer.defaults["lr"])
        self._settings = (name, warmup_steps, dict(options or {}))
        super().__init__(optimizer, self._factor(warmup_steps + 1 if total_steps is None else total_steps))

    def _factor(self, total_steps: int) -> Callable[[int], float]:
        """Return f, as transformers passes it to its schedulers."""
        from transformers import (
            get_scheduler,  # brings peft and bitsandbytes with it: a third of the start of a process
        )

        name, warmup_steps, options = self._settings
        unused = torch.optim.SGD([torch.zeros(())], lr=self._rate)  # lr_end and min_lr are absolute
        try:
            schedule = get_scheduler(name, unused, warmup_steps, total_steps, options)
            return cast(LambdaLR, schedule).lr_lambdas[0]
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"transformers refuses the schedule {name!r} with options {options}: {' '.join(str(error).split())}"
            ) from error

    def set_run_length(self, total_steps: int) -> None:
        """Spread the schedule over so many optimizer steps, of which ``last_epoch`` are taken."""
        self.lr_lambdas = [self._factor(total_steps)] * len(self.optimizer.param_groups)
        use_rates(self, [float(rate) for rate in self.base_lrs])

    def state_dict(self) -> dict[str, Any]:
        """Return position and initial rates; the settings are those given, also after a restart."""
        return {k: v for k, v in super().state_dict().items() if k not in ("_settings", "_rate", "follows_run")}


@checked_arguments()
class SequenceLR(SequentialLR):
    """One schedule after another: torch's ``SequentialLR``, from schedules that are yet to be built.

    Args:
        optimizer: whose learning rate is scheduled.
        schedulers: each called with the optimizer.
        milestones: the optimizer step at which each but the first takes over.

    Raises:
        ConfigError: their numbers do not match, or one of them would span the whole run.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[int]) -> None:
        built = [scheduler(optimizer) for scheduler in schedulers]
        if any(isinstance(scheduler, TransformersLR) and scheduler.follows_run for scheduler in built):
            raise ConfigError("a TransformersLR inside a SequenceLR needs its own total_steps")
        try:
            super().__init__(optimizer, built, milestones)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"SequenceLR: {error}") from error


def check_scheduler(scheduler: object, trainer: L.Trainer) -> LRScheduler:
    """Return the schedule, which is to be stepped once per optimizer step without a metric.

    Raises:
        ConfigError: it needs a metric (``ReduceLROnPlateau``), is none of torch's, or follows a run without an end.
    """
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ConfigError(
            "model.lr_scheduler cannot be ReduceLROnPlateau: rewards of rounds are too noisy to wait for a plateau of, and "
            "evaluations too few; use lit_tpgrpo.training.schedules.TransformersLR, or another schedule that needs no metric"
        )
    if not isinstance(scheduler, LRScheduler):
        raise ConfigError(
            f"model.lr_scheduler must give a torch.optim.lr_scheduler.LRScheduler, got {type(scheduler).__name__}"
        )
    if trainer.max_steps < 0 and trainer.max_epochs in (None, -1):
        _check_length(scheduler, math.inf)
    return scheduler


def use_rates(scheduler: LambdaLR, rates: Sequence[float]) -> None:
    """Let a schedule scale these initial rates, one a parameter group, from where it is."""
    scheduler.base_lrs = list(rates)
    scheduler._last_lr = [rate * f(scheduler.last_epoch) for rate, f in zip(rates, scheduler.lr_lambdas, strict=True)]
    for group, initial, rate in zip(scheduler.optimizer.param_groups, rates, scheduler._last_lr, strict=True):
        group["initial_lr"] = initial
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restore_settings(
    groups: Sequence[dict[str, Any]], given: Sequence[Mapping[str, Any]], scheduler: object | None
) -> None:
    """Put the given optimizer settings in the place of those that a checkpoint restored with the optimizer's state.

    What a schedule itself changes is left to it: the rate, from the given initial one where the schedule is a factor of
    that, and the momentum of a cycle.
    """
    parts = (scheduler, *getattr(scheduler, "_schedulers", ()))
    kept = set() if scheduler is None else {"lr", "initial_lr"}
    kept |= {"betas", "momentum"} if any(getattr(part, "cycle_momentum", False) for part in parts) else set()
    for group, settings in zip(groups, given, strict=True):
        group.update({k: v for k, v in settings.items() if k not in kept})
    if scheduler is None:
        return
    rates = [float(settings["lr"]) for settings in given]
    before = [float(group.get("initial_lr", rate)) for group, rate in zip(groups, rates, strict=True)]
    if isinstance(scheduler, LambdaLR):
        use_rates(scheduler, rates)
    elif before != rates:
        rank_zero_warn(
            f"the learning rate {rates[0]:g} is not used: {type(scheduler).__name__} goes on from the checkpoint's, which "
            f"began with {before[0]:g}; a lit_tpgrpo.TransformersLR can go on from another"
        )


def start_schedule(scheduler: object, trainer: L.Trainer) -> None:
    """Tell a schedule that follows the run its length in optimizer steps: a batch is a step.

    Raises:
        ConfigError: the run has no end.
    """
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs * trainer.num_training_batches
    steps = min(trainer.max_steps if trainer.max_steps >= 0 else math.inf, epochs)
    _check_length(scheduler, steps)
    if isinstance(scheduler, TransformersLR) and scheduler.follows_run:
        scheduler.set_run_length(int(steps))


def _check_length(scheduler: object, steps: float) -> None:
    if isinstance(scheduler, TransformersLR) and scheduler.follows_run and math.isinf(steps):
        raise ConfigError(
            "the learning rate is to fall until the end of a run that has none: set trainer.max_steps, trainer.max_epochs, or "
            "the schedule's total_steps"
        )
