"""MathEvaluation: Lightning's validation on maths problems, also before the first optimizer step and after the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.errors import ConfigError, mark_raised_on_all
from lit_tpgrpo.rollout.evaluation import EvaluationLog, ScoresGroups
from lit_tpgrpo.rollout.hooks import rollout_source


@checked_arguments()
class MathEvaluation(L.Callback):
    """Scores the ``val`` (and ``test``) problems with avg@k, pass@k and maj@k, in Lightning's validation loop.

    When validation runs between the first and the last step is the Trainer's to say: ``val_check_interval`` (an optimizer step
    is a batch), ``check_val_every_n_epoch``, ``limit_val_batches`` (a batch is a problem, on each process). Metrics are
    logged with ``self.log`` under ``eval/`` (``test/``), e.g. ``eval/avg@4``, for ModelCheckpoint and EarlyStopping.

    TPGRPOModule scores its validation batches without this callback too. It adds the evaluations at both ends of ``fit``, the
    line that compares them, other values of k, and the same scores for a LightningModule of your own. Where the
    validation loader gives batches of your own, these are left alone, and the problems are evaluated at the loop's end.

    Args:
        pass_at: values of k for pass@k besides the number of samples drawn; larger ones than that are refused.
        both_ends: run validation before the first step and after the last one of ``fit`` as well. A resumed run
            does not repeat the first.
    """

    def __init__(self, pass_at: Sequence[int] = (1,), both_ends: bool = True) -> None:
        self.pass_at = tuple(pass_at)
        self.both_ends = both_ends
        self.before: float | None = None
        self.after: float | None = None
        self._scored_at = -1  # optimizer step of ``after``
        self._log = EvaluationLog(self.pass_at)
        self._own_log = True  # the module does not score groups itself

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        samples = rollout_source(trainer, self).eval_samples
        too_many = [k for k in self.pass_at if not 1 <= k <= samples]
        if too_many:
            raise ConfigError(
                f"pass@k needs k samples of each problem: pass_at holds {too_many}, and data.eval_samples is {samples}"
            )
        _put_first(trainer, self)
        if isinstance(pl_module, ScoresGroups):
            self._log, self._own_log = pl_module.evaluation, False
            self._log.pass_at = self.pass_at
        if stage == "fit" and not is_overridden("validation_step", pl_module):
            rank_zero_warn(
                f"nothing is evaluated: {type(pl_module).__name__} has no validation_step, without which Lightning runs no "
                "validation; add one (it may do nothing)"
            )

    # ---- in fit: the runs that Lightning does not know of ----

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.enable_validation:
            rollout_source(trainer, self).problems("val")  # now, not after hours of training: there may be none
        if self._interrupted(trainer):
            run_validation(trainer)

    def _interrupted(self, trainer: L.Trainer) -> bool:
        """Whether the run that is resumed was saved at a step where validation was due, and ended before it was done. Lightning
        would go on without it."""
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None
        return 0 < trainer.global_step != self._scored_at and loop.restarting and loop._should_check_val_fx(fetcher)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not in on_train_start: there is a checkpoint by now, and signals are taken.
        if self.both_ends and self.before is None and trainer.enable_validation:
            run_validation(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before the hooks of ModelCheckpoint and EarlyStopping: they see the score of these weights.
        if _run_ends(trainer):
            self._evaluate_last_step(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluate_last_step(trainer)

    def _evaluate_last_step(self, trainer: L.Trainer) -> None:
        if self.both_ends and self._scored_at != trainer.global_step and trainer.enable_validation:
            run_validation(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The last line of a run, after what others print when it ends."""
        if stage == "fit" and trainer.is_global_zero and self.before is not None and self.after is not None:
            print(f"held-out accuracy {self.before:.3f} -> {self.after:.3f}", flush=True)

    # ---- in every validation loop ----

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._own_log:
            self._log.start()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._own_log:
            self._log.add(batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self._log.empty():  # the loop went over batches of the user's
            source = rollout_source(trainer, self)
            with raise_on_all_ranks("evaluation"):
                for group in source.evaluate("val", _problem_limit(trainer, len(source.problems("val")))):
                    self._log.add(group)
        if self._own_log:
            self._log.finish(pl_module, "eval")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._own_log:
            self._log.finished(trainer)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.after = float(self._log.scores[f"avg@{rollout_source(trainer, self).eval_samples}"])
            self.before = self.after if self.before is None else self.before
            self._scored_at = trainer.global_step
            _check_monitors(trainer)

    # ---- in test ----

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._own_log:
            self._log.finish(pl_module, "test")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._own_log:
            self._log.finished(trainer)

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "after": self.after, "scored_at": self._scored_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.after, self._scored_at = state_dict["before"], state_dict["after"], state_dict["scored_at"]


def run_validation(trainer: L.Trainer) -> None:
    """Run the validation loop of ``fit`` now, from its first batch, as Lightning does between two training batches."""
    loop, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    loop.restarting = False  # a resumed run would go on behind the last batch of the loop before
    first_iteration = connector._first_loop_iter
    trainer.validating = True
    call._call_lightning_module_hook(trainer, "on_validation_model_zero_grad")
    loop.run()
    trainer.training = True
    connector._first_loop_iter = first_iteration


def _problem_limit(trainer: L.Trainer, problems: int) -> int | None:
    """Each process's problems under ``limit_val_batches``, as if one were a batch: a number, or a share (at least one)."""
    limit = trainer.limit_val_batches
    if limit is None or isinstance(limit, int):
        return limit
    return None if limit >= 1 else max(1, int(limit * (problems // trainer.world_size)))


def _put_first(trainer: L.Trainer, evaluation: MathEvaluation) -> None:
    """Let its hooks come before those of EarlyStopping, which would look for the last score before it is measured, and end
    in an error where ours says which scores there are."""
    callbacks: list[L.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    before = callbacks[: callbacks.index(evaluation)]
    if any(isinstance(callback, EarlyStopping) for callback in before):
        # A new list: the Trainer goes through this one.
        trainer.callbacks = [evaluation, *(c for c in callbacks if c is not evaluation)]  # pyright: ignore[reportAttributeAccessIssue]


def _check_monitors(trainer: L.Trainer) -> None:
    """Raises:
    ConfigError: a callback monitors a score under ``eval/`` that validation, which has just run, does not measure.
    """
    measured = sorted(name for name in trainer.callback_metrics if name.startswith("eval/"))
    callbacks: list[L.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    for callback in callbacks:
        if not isinstance(callback, (ModelCheckpoint, EarlyStopping)):
            continue
        monitor = callback.monitor
        optional = isinstance(callback, EarlyStopping) and not callback.strict
        if (
            measured
            and monitor is not None
            and monitor.startswith("eval/")
            and monitor not in measured
            and not optional
        ):
            error = ConfigError(
                f"{type(callback).__name__} monitors {monitor}, which validation does not measure; set its monitor to one of "
                f"{', '.join(measured)}, or change data.eval_samples or pass_at"
            )
            raise mark_raised_on_all(error)


def _run_ends(trainer: L.Trainer) -> bool:
    """Whether training ends with the epoch that has just ended."""
    steps, epochs = trainer.max_steps, trainer.max_epochs
    limited = trainer.global_step >= steps >= 0 or (
        epochs is not None and trainer.fit_loop.epoch_progress.current.processed >= epochs >= 0
    )
    return limited or (trainer.should_stop and trainer.fit_loop._can_stop_early)
