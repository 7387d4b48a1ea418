"""Last lines of a run: its folder, checkpoints and report, and which limit ended it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.rollout.trainer_state import callbacks_of, is_dev_run


def print_ending(trainer: L.Trainer) -> None:
    """Print the last lines of ``fit``, once, whatever loggers and callbacks it has. Collective."""
    if is_dev_run(trainer):
        return
    lines = ending_lines(trainer)  # on all ranks: choosing the run's folder is collective
    if trainer.is_global_zero:
        # After a line break: progress bars leave the cursor at their end.
        print("\n" + "\n".join(lines), flush=True)


def ending_lines(trainer: L.Trainer) -> list[str]:
    """Return the lines, without the accuracy, which MathEvaluation prints."""
    run = f"run: {_shown(run_folder(trainer))}"
    # Lightning skips the loop of a run that was at its end when it was resumed, and goes on resuming.
    done = trainer.ckpt_path is None or not trainer.fit_loop.is_resuming
    if not done:
        given = _shown(trainer.ckpt_path or "")
        lines = [_nothing_done(trainer, given), run, f"checkpoint: {given} (optimizer step {trainer.global_step})"]
    else:
        savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        written = [line for saver in savers for line in _checkpoint_lines(saver, trainer.global_step)]
        lines = [*_early_lines(trainer), *_limit_line(trainer), run, *(written or ["checkpoint: none was written"])]
    pages = (getattr(callback, "report_path", None) for callback in callbacks_of(trainer))  # of RunReport
    lines += [f"report: {_shown(page)} (open it in a browser)" for page in pages if page is not None]
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            lines.append(f"report: tensorboard --logdir {_shown(logger.log_dir)} (curves: SCALARS, solutions: TEXT)")
        elif isinstance(logger, CSVLogger) and done:
            lines.append(f"metrics: {_shown(Path(logger.log_dir, 'metrics.csv'))}")
    return lines


def _nothing_done(trainer: L.Trainer, given: str) -> str:
    """Name the limit that the resumed run had reached already."""
    step, steps, done, epochs = trainer.global_step, trainer.max_steps, trainer.current_epoch, trainer.max_epochs
    if step >= steps >= 0:
        return f"nothing was done: {given} is at optimizer step {step} of trainer.max_steps {steps}; raise it to go on"
    if epochs is not None and done >= epochs >= 0:
        return (
            f"nothing was done: {given} is at the end of epoch {done} of trainer.max_epochs {epochs}; raise it to go on"
        )
    for timer in (c for c in callbacks_of(trainer) if isinstance(c, Timer)):
        if timer._duration is not None and timer.time_elapsed() >= timer._duration:
            limit = timedelta(seconds=timer._duration)
            return f"nothing was done: the run's time of {limit} is used up; raise trainer.max_time to go on"
    return f"nothing was done: {given} is at optimizer step {step}"


def _early_lines(trainer: L.Trainer) -> Iterator[str]:
    """Name the metric that ended the run before its limits, which EarlyStopping itself says only when verbose."""
    step, steps = trainer.global_step, trainer.max_steps
    if not trainer.should_stop or step >= steps >= 0:
        return
    for stopping in (c for c in callbacks_of(trainer) if isinstance(c, EarlyStopping)):
        if stopping.stopping_reason_message is not None:
            why = stopping.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            of = f" of trainer.max_steps {steps}" if steps >= 0 else ""
            yield f"ended by {type(stopping).__name__} at optimizer step {step}{of}: {why}"


def _limit_line(trainer: L.Trainer) -> Iterator[str]:
    """Name the limit that ended the run, if two were set: the user may have meant the other one."""
    steps, epochs, done = trainer.max_steps, trainer.max_epochs, trainer.current_epoch
    if steps < 0 or epochs is None or epochs < 0:
        return
    if done >= epochs and trainer.global_step < steps:
        yield (
            f"ended by trainer.max_epochs {epochs} at optimizer step {trainer.global_step} of trainer.max_steps {steps}: "
            "raise max_epochs, or set it to -1, to go on"
        )
    elif trainer.global_step >= steps and done < epochs:
        yield (
            f"ended by trainer.max_steps {steps} in epoch {done + 1} of trainer.max_epochs {epochs}: raise max_steps, or set "
            "it to -1, to go on"
        )


def _checkpoint_lines(saver: ModelCheckpoint, step: int) -> Iterator[str]:
    newest, saved_at = saver._last_checkpoint_saved, saver._last_global_step_saved
    if newest:
        behind = f", which lacks the last {step - saved_at}: SafeCheckpoint saves every end" if saved_at < step else ""
        yield f"checkpoint: {_shown(newest)} (optimizer step {saved_at}{behind})"
    elif saver.last_model_path:  # of the run that was resumed
        yield f"checkpoint: {_shown(saver.last_model_path)}"
    if saver.monitor is not None and saver.best_model_path and saver.best_model_score is not None:
        yield f"best checkpoint: {_shown(saver.best_model_path)} ({saver.monitor} {float(saver.best_model_score):.3f})"


def _shown(path: str | os.PathLike[str]) -> str:
    """Return a path relative to the working directory if it is below it."""
    whole = Path(path).absolute()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)
