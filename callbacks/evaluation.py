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
from lit_tpgrpo.evaluation.log import EvaluationLog, ScoresGroups
from lit_tpgrpo.rollout.hooks import RolloutSource, rollout_source
from lit_tpgrpo.rollout.trainer_state import callbacks_of, run_ends


@checked_arguments()
class MathEvaluation(L.Callback):
    """Score the ``val`` (and ``test``) problems with avg@k, pass@k and maj@k, in Lightning's validation loop.

    Between the first and the last step the Trainer's options decide when validation runs: ``val_check_interval`` (a batch is an
    optimizer step), ``check_val_every_n_epoch``, ``limit_val_batches`` (a batch is a problem, on each rank). Metrics are
    logged with ``self.log`` under ``eval/`` (``test/``), e.g. ``eval/avg@4``, for ModelCheckpoint and EarlyStopping.

    TPGRPOModule also scores its validation batches without this callback. The callback adds the evaluations before and after
    ``fit``, the line that compares them, other values of k, and the same scores for any other LightningModule. If the
    validation loader is the user's, its batches are not touched and the problems are evaluated at the end of the loop.

    Args:
        pass_at: values of k for pass@k besides the number of samples drawn; larger values are refused.
        both_ends: also run validation before the first and after the last step of ``fit``. A resumed run does not
            repeat the first.
    """

    def __init__(self, pass_at: Sequence[int] = (1,), both_ends: bool = True) -> None:
        self.pass_at = tuple(pass_at)
        self.both_ends = both_ends
        self.before: float | None = None
        self.after: float | None = None
        self._before_of = self._after_of = ""  # hashes of what they were measured on and with
        self._scored_at = -1  # optimizer step of ``after``
        self._log = EvaluationLog(self.pass_at)
        self._scores_here = True  # False if the module scores groups itself

    @property
    def before_training(self) -> tuple[float, str] | None:
        """The accuracy before the first step, and the hash of what it was measured on (``EvaluationLog.measured``)."""
        return None if self.before is None else (self.before, self._before_of)

    @property
    def evaluation(self) -> EvaluationLog:
        """The scores of the last loop."""
        return self._log

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        source = rollout_source(trainer, self)
        samples = {n: s.samples for n, s in source.heldout_sampling("test" if stage == "test" else "val").items()}
        too_many = [k for k in self.pass_at if not 1 <= k <= max(samples.values(), default=k)]
        if too_many:
            drawn = "data.eval_samples is" if "" in samples else "the most that any set has is"
            raise ConfigError(
                f"pass@k needs k samples of each problem: pass_at holds {too_many}, and {drawn} {max(samples.values())}"
            )
        _put_first(trainer, self)
        if isinstance(pl_module, ScoresGroups):
            self._log, self._scores_here = pl_module.evaluation, False
            self._log.pass_at = self.pass_at
        if stage == "fit" and not is_overridden("validation_step", pl_module):
            rank_zero_warn(
                f"nothing is evaluated: {type(pl_module).__name__} has no validation_step, without which Lightning runs no "
                "validation; add one (it may do nothing)"
            )

    # ---- validation runs that this callback starts during fit ----

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.enable_validation:
            rollout_source(trainer, self).problems("val")  # fails now, not after hours of training, if there are none
        if self._interrupted(trainer):
            run_validation(trainer)

    def _interrupted(self, trainer: L.Trainer) -> bool:
        """Return whether the resumed checkpoint was saved at a step whose validation was due and did not finish.

        Lightning would continue without it.
        """
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None
        return 0 < trainer.global_step != self._scored_at and loop.restarting and loop._should_check_val_fx(fetcher)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not in on_train_start: by now a checkpoint exists and signal handlers are installed.
        if self.both_ends and self.before is None and trainer.enable_validation:
            run_validation(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before the hooks of ModelCheckpoint and EarlyStopping, which then see the score of these weights.
        if run_ends(trainer):
            self._evaluate_last_step(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluate_last_step(trainer)

    def _evaluate_last_step(self, trainer: L.Trainer) -> None:
        if self.both_ends and self._scored_at != trainer.global_step and trainer.enable_validation:
            run_validation(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print the comparison as the last line of the run."""
        if stage == "fit" and trainer.is_global_zero and self.before is not None and self.after is not None:
            print(self._comparison(self.before, self.after), flush=True)

    def _comparison(self, before: float, after: float) -> str:
        if self._before_of in (self._after_of, ""):  # "": of a checkpoint that does not say
            return f"held-out accuracy {before:.3f} -> {after:.3f}"
        return (
            f"held-out accuracy {after:.3f}; {before:.3f} before training was measured on other problems, samples or settings "
            "and does not compare"
        )

    # ---- in every validation loop ----

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._scores_here:
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
        if self._scores_here:
            self._log.add(batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self._log.empty():  # the validation loader is the user's
            source = rollout_source(trainer, self)
            with raise_on_all_ranks("evaluation"):
                for group in source.evaluate("val", _problem_limit(trainer, source)):
                    self._log.add(group)
        if self._scores_here:
            self._log.finish(pl_module, "eval")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._scores_here:
            self._log.finished(trainer)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.after, self._after_of = float(self._log.scores[self._log.headline]), self._log.measured
            if self.before is None:
                self.before, self._before_of = self.after, self._after_of
            self._scored_at = trainer.global_step
            _check_monitors(trainer)

    # ---- in test ----

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._scores_here:
            self._log.finish(pl_module, "test")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._scores_here:
            self._log.finished(trainer)

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        return {
            "before": self.before,
            "after": self.after,
            "scored_at": self._scored_at,
            "before_of": self._before_of,
            "after_of": self._after_of,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.after, self._scored_at = state_dict["before"], state_dict["after"], state_dict["scored_at"]
        self._before_of, self._after_of = state_dict.get("before_of", ""), state_dict.get("after_of", "")


def run_validation(trainer: L.Trainer) -> None:
    """Run the validation loop of ``fit`` now, from its first batch, as Lightning does between training batches."""
    loop, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    loop.restarting = False  # otherwise a resumed run would continue after the last batch of the previous loop
    first_iteration = connector._first_loop_iter
    trainer.validating = True
    call._call_lightning_module_hook(trainer, "on_validation_model_zero_grad")
    loop.run()
    trainer.training = True
    connector._first_loop_iter = first_iteration


def _problem_limit(trainer: L.Trainer, source: RolloutSource) -> int | float | None:
    """Return each rank's problems of a set under ``limit_val_batches`` as if a problem were a batch; None for all.

    A fraction keeps at least one problem; that of sets with names is left to ``evaluate``, which takes it of each set.
    """
    limit = trainer.limit_val_batches
    if limit is None or isinstance(limit, int) or "" not in source.heldout_sampling("val"):
        return None if isinstance(limit, float) and limit >= 1 else limit
    return None if limit >= 1 else max(1, int(limit * (len(source.problems("val")) // trainer.world_size)))


def _put_first(trainer: L.Trainer, evaluation: MathEvaluation) -> None:
    """Move the evaluation's hooks before those of EarlyStopping, which would look for a score before it is measured."""
    callbacks = callbacks_of(trainer)
    before = callbacks[: callbacks.index(evaluation)]
    if any(isinstance(callback, EarlyStopping) for callback in before):
        # A new list: the Trainer is iterating over this one.
        trainer.callbacks = [evaluation, *(c for c in callbacks if c is not evaluation)]  # pyright: ignore[reportAttributeAccessIssue]


def _check_monitors(trainer: L.Trainer) -> None:
    """Check after a validation that every score under ``eval/`` that a callback monitors was measured.

    Raises:
        ConfigError: one was not.
    """
    measured = sorted(name for name in trainer.callback_metrics if name.startswith("eval/"))
    scores = [name for name in measured if "@" in name and not name.endswith(("_se", "_low", "_high"))]
    scores += ["eval/average"] if "eval/average" in measured else []
    for callback in callbacks_of(trainer):
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
                f"{', '.join(scores)}, or change data.eval_samples or pass_at"
            )
            raise mark_raised_on_all(error)
