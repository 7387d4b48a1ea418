"""Progress bar over all optimizer steps of a run."""

from __future__ import annotations

import math
import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, _update_n

from lit_tpgrpo.rollout.trainer_state import callbacks_of


class OptimizerStepBar(TQDMProgressBar):
    """Show optimizer steps out of those of the whole run, instead of batches of an epoch.

    Lightning's bars begin without a total, and that of a resumed run goes on without one.
    """

    def init_train_tqdm(self) -> Tqdm:
        total = self.trainer.estimated_stepping_batches
        return self._bar("training", total, 0, unit="step", initial=self.trainer.global_step, leave=True)

    def init_validation_tqdm(self) -> Tqdm:
        below = self.trainer.state.fn == "fit"  # the bar of training
        return self._bar(
            self.validation_description, sum(self.trainer.num_val_batches), int(below), unit="problem", leave=not below
        )

    def init_test_tqdm(self) -> Tqdm:
        return self._bar(self.test_description, sum(self.trainer.num_test_batches), 0, unit="problem", leave=True)

    def init_predict_tqdm(self) -> Tqdm:
        return self._bar(self.predict_description, sum(self.trainer.num_predict_batches), 0, unit="batch", leave=True)

    def _bar(self, desc: str, total: float, line: int, **options: Any) -> Tqdm:
        return Tqdm(
            desc=desc,
            total=int(total) if math.isfinite(total) else None,
            position=2 * self.process_position + line,
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
            **options,
        )

    @property
    def validation_description(self) -> str:
        return "evaluating"

    @property
    def test_description(self) -> str:
        return "testing"

    @property
    def predict_description(self) -> str:
        return "predicting"

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Keep the bar: it counts the whole run, not epochs."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        bar = self.train_progress_bar
        if self._should_update(trainer.global_step, bar.total):
            _update_n(bar, trainer.global_step)
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See ``on_train_epoch_start``."""


def use_step_bar(trainer: L.Trainer) -> None:
    """Replace the bar that Lightning adds by itself with ``OptimizerStepBar``.

    A bar that the user chose stays: one of another class, or with other settings than the defaults. Lightning takes rich's bar
    where rich is installed; its live display and the bars of sampling and judging overwrite each other.
    """
    callbacks = callbacks_of(trainer)
    for index, callback in enumerate(callbacks):
        if isinstance(callback, ProgressBar) and _is_lightnings_default(callback):
            callbacks[index] = OptimizerStepBar()


def _is_lightnings_default(bar: ProgressBar) -> bool:
    kinds = (RichProgressBar, TQDMProgressBar)
    return type(bar) in kinds and _settings(bar) == _settings(type(bar)())


def _settings(bar: ProgressBar) -> dict[str, Any]:
    names = ("_refresh_rate", "_process_position", "_leave", "theme", "_console_kwargs")
    return {name: getattr(bar, name, None) for name in names}
