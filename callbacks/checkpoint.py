"""SafeCheckpoint: checkpoints that are complete or absent, however a run ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.checksums import Sum, shard_checksums, write_checksums
from lit_tpgrpo.distributed import gather, raise_on_all_ranks
from lit_tpgrpo.errors import InputError, NonFiniteLossError, StorageError, mark_raised_on_all, raised_on_all_ranks
from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.monitors import is_round_metric
from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.rollout.trainer_state import is_dev_run, no_batch_in_progress
from lit_tpgrpo.signals import STOP, stop_error
from lit_tpgrpo.training.checkpoints import PARTIAL, usable_checkpoint
from lit_tpgrpo.training.checkpoints.epochs import reopen_epoch
from lit_tpgrpo.training.checkpoints.writing import (
    archive_checksums,
    commit_checkpoint,
    prepare_folder,
    remove_checkpoint,
    storage_failure,
)


@checked_arguments()
class SafeCheckpoint(ModelCheckpoint):
    """Save checkpoints as Lightning's ModelCheckpoint does, and never leave a partial one.

    - A checkpoint (a file, or a folder of shards) is written under a temporary name, flushed to disk and renamed. All of it
      has checksums: torch's archives contain theirs, shards get a file ``checksums.json`` (each rank reads its shards back).
    - ``last`` is also written before the first round, so that every sampled round belongs to a run that can be resumed, and at
      the end of training, after the last evaluation: it always holds the weights that the run ended with.
    - A ``monitor`` that validation measures is only saved with the weights it was measured on: with
      ``every_n_train_steps`` the best checkpoint waits for the validation after its step; ``last`` does not wait. One that a
      round measures (``rollout/accuracy``) is saved when the round is complete, with the weights that sampled it.
    - An epoch that was cut short (``max_steps``, ``max_time``, early stopping) is continued when the run is resumed.
    - The first SIGTERM or ctrl-C stops the run between two sampled batches, verdicts or optimizer steps, at the same point
      on all ranks, and saves; a second one stops immediately.
    - After an error only a consistent state is saved: never the middle of an optimizer step, and with several ranks only
      if all are known to have stopped at the same point.

    Args:
        dirpath: folder of the checkpoints; by default ``checkpoints`` in the run's folder.
        filename: as in ``ModelCheckpoint``.
        save_last: keep ``last``.
        save_on_exception: save when a run ends with an error or on a signal.
        kwargs: further arguments of ``ModelCheckpoint``.

    Raises:
        StorageError: the folder cannot be written, checked before anything is sampled; or the disk is full, in which case
            earlier checkpoints are unchanged.
    """

    saves_measured_weights = True
    """Not the newest value with whatever weights there are, as ``ModelCheckpoint`` does."""

    def __init__(
        self,
        dirpath: str | Path | None = None,
        filename: str | None = None,
        save_last: bool | Literal["link"] | None = True,
        save_on_exception: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(dirpath, filename, save_last=save_last, save_on_exception=save_on_exception, **kwargs)
        self._consistent = True
        self._outdated = False  # validation has run since the last checkpoint was saved
        self._measured_at: dict[
            str, int
        ] = {}  # optimizer step of the weights, of each metric of a validation or a round
        self._of_rounds: set[str] = set()  # metrics that a round has measured
        self._ranked_at = -1  # optimizer step

    # ---- when to save ----

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.dirpath is None and not trainer.loggers:
            self.dirpath = str(run_folder(trainer) / "checkpoints")  # Lightning's default is one folder for all runs
        super().setup(trainer, pl_module, stage)
        writes = stage == "fit" and not is_dev_run(trainer)
        if writes and self.dirpath is not None and _is_local_file_protocol(self.dirpath):
            with raise_on_all_ranks("the checkpoint folder"):
                if trainer.is_global_zero:
                    prepare_folder(Path(self.dirpath))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._consistent = True
        STOP.install()
        if trainer.global_step == 0:
            self._save_last(trainer)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self._consistent = False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self._consistent = True
        if not self._is_stale(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)
        elif self._every_n_train_steps and trainer.global_step % self._every_n_train_steps == 0:
            self._defer_save_until_validation = not self._awaits_rounds()
            self._save_last(trainer)
        requested = torch.tensor(STOP.requested, device=trainer.strategy.root_device)
        # Not every rank may have received the signal yet: all stop after the same step.
        if number := int(trainer.strategy.reduce(requested, reduce_op="max")):  # pyright: ignore[reportArgumentType]
            raise mark_raised_on_all(stop_error(number))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._measured_at |= dict.fromkeys(trainer._logger_connector.metrics["callback"], trainer.global_step)
        self._outdated = True
        if self._awaits_rounds():
            return
        if self._defer_save_until_validation and not is_dev_run(trainer):
            self._defer_save_until_validation = False
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        else:
            super().on_validation_end(trainer, pl_module)

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, round_: Round) -> None:
        """Save the weights that sampled the round, if one of its metrics is monitored; the round is stored already."""
        self._measured_at |= dict.fromkeys(round_.metrics, round_.policy_version)
        self._of_rounds |= round_.metrics.keys()
        ranked = self.monitor in round_.metrics and not self._is_stale(trainer) and not is_dev_run(trainer)
        if ranked and self._ranked_at != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor not in self._measured_at or not self._is_stale(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final weights and the state after the last validation."""
        if is_dev_run(trainer):
            return
        unsaved = self._last_global_step_saved != trainer.global_step
        scored = self.monitor in self._measured_at and self._ranked_at != trainer.global_step
        if not self._is_stale(trainer) and (scored or (unsaved and not self.save_last)):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        if unsaved or self._outdated:
            self._save_last(trainer)

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self._ranked_at = trainer.global_step
        super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_unsaved_state(self, trainer: L.Trainer) -> None:
        if self._should_save_on_exception(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_checkpoint(trainer, self.format_checkpoint_name(candidates))
            self._save_last_checkpoint(trainer, candidates)
        elif self._outdated:  # the weights are saved, the result of their validation is not
            self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        """Save ``last`` from the current weights, even if it is usually a link to the newest checkpoint."""
        if self.save_last and not is_dev_run(trainer):
            kind, self.save_last = self.save_last, True
            try:
                self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            finally:
                self.save_last = kind

    def _awaits_rounds(self) -> bool:
        """Return whether rounds measure what is monitored, and no validation does."""
        return is_round_metric(self.monitor) or self.monitor in self._of_rounds

    def _is_stale(self, trainer: L.Trainer) -> bool:
        """Return whether the monitored value was measured on other weights than the current ones."""
        if self.monitor is None:
            return False
        missing = self.monitor not in self._monitor_candidates(trainer)
        return missing or self._measured_at.get(self.monitor, trainer.global_step) != trainer.global_step

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        everywhere = trainer.world_size == 1 or raised_on_all_ranks(exception)
        # Between two steps; or the failure came after the step was complete; or before the weights changed.
        consistent = self._consistent or no_batch_in_progress(trainer) or isinstance(exception, NonFiniteLossError)
        try:
            wanted = not isinstance(exception, StorageError) and not getattr(exception, "at_once", False)
            if self.save_on_exception and consistent and everywhere and wanted and not is_dev_run(trainer):
                self._save_unsaved_state(trainer)
        finally:
            if trainer.is_global_zero and self.last_model_path and os.path.exists(self.last_model_path):
                # Start a new line: progress bars leave the cursor at their end.
                print(f"\nresume with --ckpt_path {self.last_model_path}", flush=True)
            STOP.restore()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        STOP.restore()
        super().teardown(trainer, pl_module, stage)

    def _find_last_checkpoints(self, trainer: L.Trainer) -> set[str]:
        """Return the candidates for Lightning's ``ckpt_path="last"``, without incomplete checkpoints."""
        candidates = super()._find_last_checkpoints(trainer)
        local = [Path(p) for p in candidates if _is_local_file_protocol(p)]
        if not local:
            return candidates
        try:
            return {str(usable_checkpoint(max(local, key=lambda p: p.lstat().st_mtime_ns), exact=False))}
        except InputError as error:
            rank_zero_warn(str(error))
            return set()

    # ---- how to save ----

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if not _is_local_file_protocol(filepath):  # object stores show a file only when it is complete
            super()._save_checkpoint(trainer, filepath)
            return
        path = Path(filepath)
        partial = path.with_name(path.name + PARTIAL)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
        reopen_epoch(trainer, checkpoint)
        with raise_on_all_ranks(f"saving {path.name}"):
            sums: dict[str, Sum] = {}
            try:
                with archive_checksums():
                    trainer.strategy.save_checkpoint(checkpoint, partial)
                if partial.is_dir():
                    sums = shard_checksums(partial, trainer.global_rank)
            except (Exception, CheckpointException) as error:  # that of shards is a BaseException
                remove_checkpoint(partial)
                failure = storage_failure(error)
                if failure is None:  # not the disk: the state of a callback cannot be pickled, for example
                    raise
                raise self._not_saved(path, failure) from error
        known = gather(sums)
        with raise_on_all_ranks(f"saving {path.name}"):
            if trainer.is_global_zero:
                try:
                    if partial.is_dir():
                        write_checksums(partial, known)
                    commit_checkpoint(partial, path)
                except OSError as error:
                    raise self._not_saved(path, error) from error
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        self._outdated = False
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def _not_saved(self, path: Path, error: BaseException) -> StorageError:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        last = self._last_checkpoint_saved
        resume = f"the last whole one is {last}: resume with --ckpt_path {last}" if last else "none is before it"
        return StorageError(
            f"the checkpoint {path} could not be written ({type(error).__name__}: {reason}). Free space or make the folder "
            f"writable; {resume}"
        )
