"""EarlyStopping and ModelCheckpoint on metrics of rounds and optimizer steps, which no validation measures.

Lightning lets both look after a validation or an epoch. A run without validation never gets there, and the one before the first
round would look for a value that is not measured yet. So EarlyStopping looks whenever a round is complete, before it is trained
on: the weights that sampled it are the ones the run ends with.
"""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.errors import ConfigError, mark_raised_on_all
from lit_tpgrpo.rollout.trainer_state import callbacks_of

_OF_ROUNDS = (
    "rollout/",
    "reward/",
    "judge/",
    "credit/",
    "evidence/",
    "verify/",
    "dynamic/",
    "ahead/",
    "pipelined/",
    "sources/",
)  # measured in every round
_OF_TRAINING = (*_OF_ROUNDS, "train/", "mismatch/", "capability/", "judge_audit/", "data/")


def is_round_metric(monitor: str | None, corrected: bool = False) -> bool:
    """Return whether every round measures the metric, on the weights that sample it.

    Args:
        monitor: name of the metric.
        corrected: whether log-probs of rounds are corrected: else optimizer steps measure ``mismatch/``.
    """
    return monitor is not None and monitor.startswith((*_OF_ROUNDS, "mismatch/") if corrected else _OF_ROUNDS)


def check_between_rounds(trainer: L.Trainer) -> None:
    """Let EarlyStopping look between rounds where its monitor is measured in training. Call before the callbacks' ``setup``.

    One whose ``check_on_train_epoch_end`` is given keeps to it.
    """
    for callback in callbacks_of(trainer):
        if (
            isinstance(callback, EarlyStopping)
            and callback._check_on_train_epoch_end is None
            and (callback.monitor.startswith(_OF_TRAINING) or callback.monitor == "loss")
        ):
            callback._should_skip_check = _skip  # pyright: ignore[reportAttributeAccessIssue]


def forget_reasons(trainer: L.Trainer) -> None:
    """Forget why EarlyStopping ended an earlier run, which a checkpoint or the object remembers. Call when that is restored."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping):
            callback.stopping_reason, callback.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None


def check_measured_weights(trainer: L.Trainer, schedule: str, corrected: bool) -> None:
    """Check that no checkpoint waits for a round's value with the weights it was measured on, which the trainer will not have.

    Args:
        trainer: of the run.
        schedule: by which the trainer works on other weights when a round is whole.
        corrected: whether log-probs of rounds are corrected.

    Raises:
        ConfigError: one does.
    """
    for callback in callbacks_of(trainer):
        monitor = getattr(callback, "monitor", None)
        if getattr(callback, "saves_measured_weights", False) and is_round_metric(monitor, corrected):
            raise ConfigError(
                f"{type(callback).__name__} monitors {monitor} and saves a value with the weights it was measured on, "
                f"and with data.schedule {schedule} the trainer has gone on from these when the round is whole. Monitor what a "
                "validation measures (eval/...), or take data.schedule serial or streamed"
            )


def check_monitors(trainer: L.Trainer) -> None:
    """Let EarlyStopping look at the round that is complete, see ``check_between_rounds``. Collective.

    Raises:
        ConfigError: a callback monitors a metric of training that is not measured, though others of its stage are.
    """
    for callback in callbacks_of(trainer):
        if not isinstance(callback, (EarlyStopping, ModelCheckpoint)) or not _is_measured(trainer, callback):
            continue
        if isinstance(callback, EarlyStopping) and callback._should_skip_check is _skip:
            callback._run_early_stopping_check(trainer)


def _skip(trainer: L.Trainer) -> bool:
    """Return True: in place of EarlyStopping's own rule for its looks after validations and epochs."""
    return True


def _is_measured(trainer: L.Trainer, callback: EarlyStopping | ModelCheckpoint) -> bool:
    monitor, metrics = callback.monitor, trainer.callback_metrics
    if monitor is None or monitor in metrics or not monitor.startswith(_OF_TRAINING):
        return monitor in metrics
    stage = monitor.split("/")[0] + "/"
    known = sorted(name for name in metrics if name.startswith(stage))
    if known and not (isinstance(callback, EarlyStopping) and not callback.strict):
        raise mark_raised_on_all(
            ConfigError(
                f"{type(callback).__name__} monitors {monitor}, which is not measured; set its monitor to one of "
                f"{', '.join(known)}"
            )
        )
    if not known and trainer.global_step > 0:
        rank_zero_warn(f"{type(callback).__name__} monitors {monitor}, and nothing under {stage} is measured so far")
    return False
