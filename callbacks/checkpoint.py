"""SafeCheckpoint: checkpoints that are whole or not there, at every end a run can come to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.signals import STOP, stop_error
from lit_tpgrpo.training.checkpoints import ASIDE, PARTIAL, bring_back, usable_checkpoint


@checked_arguments()
class SafeCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, of which a killed or failed run never leaves half a checkpoint.

    - A checkpoint (a file, or a folder of shards) is written beside its place, flushed to disk and renamed. All of it has
      checksums: torch's archives have their own, shards get a file ``checksums.json``, each process reading its own once more.
    - ``last`` is written before the first round too, so that whatever is sampled belongs to a run that can be resumed, and at
      the end of training, after the last evaluation: whatever ended it, ``last`` has the weights it ended with.
    - A ``monitor`` that validation measures is never saved beside other weights than those it was measured on: with
      ``every_n_train_steps`` the best checkpoint waits for the validation after its step, and ``last`` does not wait.
    - An epoch that was cut short (``max_steps``, ``max_time``, early stopping) goes on when the run is resumed.
    - The first SIGTERM or ctrl-C stops the run between two sampled batches, verdicts or optimizer steps, on all processes
      at the same place, and saves; a second one stops at once.
    - After an error it saves only what is consistent: nothing from the middle of an optimizer step, and of several
      processes only where all are known to have stopped at the same place.

    Args:
        dirpath: folder of the checkpoints; by default ``checkpoints`` in the run's folder.
        filename: as of ``ModelCheckpoint``.
        save_last: keep ``last``.
        save_on_exception: save when a run ends with an error or on a signal.
        kwargs: further ones of ``ModelCheckpoint``.

    Raises:
        StorageError: the folder cannot be written, checked before anything is sampled; or the disk is full, in which case
            the checkpoints from before are as they were.
    """

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
        self._outdated = False  # validation has run since the last checkpoint
        self._validated: set[str] = set()  # metrics that validation measures
        self._validated_at = self._ranked_at = -1  # optimizer steps

    # ---- when ----

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.dirpath is None and not trainer.loggers:
            self.dirpath = str(run_folder(trainer) / "checkpoints")  # Lightning's own is the same for all runs
        super().setup(trainer, pl_module, stage)
        writes = stage == "fit" and not trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue]
        if writes and self.dirpath is not None and _is_local_file_protocol(self.dirpath):
            with raise_on_all_ranks("the checkpoint folder"):
                if trainer.is_global_zero:
                    _make_ready(Path(self.dirpath))

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
            self._defer_save_until_validation = True
            self._save_last(trainer)
        requested = torch.tensor(STOP.requested, device=trainer.strategy.root_device)
        # Not every process may have been signalled yet: they stop after the same step.
        if number := int(trainer.strategy.reduce(requested, reduce_op="max")):  # pyright: ignore[reportArgumentType]
            raise mark_raised_on_all(stop_error(number))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._validated_at = trainer.global_step
        self._validated |= trainer._logger_connector.metrics["callback"].keys()
        self._outdated = True
        if self._defer_save_until_validation and not trainer.fast_dev_run:
            self._defer_save_until_validation = False
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        else:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor not in self._validated or not self._is_stale(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the weights that the run ends with, and what its last validation said."""
        if trainer.fast_dev_run:
            return
        unsaved = self._last_global_step_saved != trainer.global_step
        scored = self.monitor in self._validated and self._ranked_at != trainer.global_step
        if not self._is_stale(trainer) and (scored or (unsaved and not self.save_last)):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        if unsaved or self._outdated:
            self._save_last(trainer)

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self._ranked_at = trainer.global_step
        super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_what_is_new(self, trainer: L.Trainer) -> None:
        if self._should_save_on_exception(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_checkpoint(trainer, self.format_checkpoint_name(candidates))
            self._save_last_checkpoint(trainer, candidates)
        elif self._outdated:  # these weights are saved, what validation said of them is not
            self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        """``last`` from the weights of this moment, also where it is otherwise a link to the newest checkpoint."""
        if self.save_last and not trainer.fast_dev_run:
            kind, self.save_last = self.save_last, True
            try:
                self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            finally:
                self.save_last = kind

    def _is_stale(self, trainer: L.Trainer) -> bool:
        """Whether the monitored value is of other weights than the current ones."""
        if self.monitor is None:
            return False
        missing = self.monitor not in self._monitor_candidates(trainer)
        return missing or (self.monitor in self._validated and self._validated_at != trainer.global_step)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        together = trainer.world_size == 1 or raised_on_all_ranks(exception)
        batches = trainer.fit_loop.epoch_loop.batch_progress.total
        # Between two steps; or the step is over, and what failed came after it; or its error came before the weights changed.
        whole = self._consistent or batches.processed == batches.started or isinstance(exception, NonFiniteLossError)
        try:
            wanted = not isinstance(exception, StorageError) and not getattr(exception, "at_once", False)
            if self.save_on_exception and whole and together and wanted and not trainer.fast_dev_run:
                self._save_what_is_new(trainer)
        finally:
            if trainer.is_global_zero and self.last_model_path and os.path.exists(self.last_model_path):
                # On a line of its own: progress bars leave the cursor where they ended.
                print(f"\nresume with --ckpt_path {self.last_model_path}", flush=True)
            STOP.restore()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        STOP.restore()
        super().teardown(trainer, pl_module, stage)

    def _find_last_checkpoints(self, trainer: L.Trainer) -> set[str]:
        """What Lightning's ``ckpt_path="last"`` chooses from: never one that was cut short."""
        found = super()._find_last_checkpoints(trainer)
        local = [Path(p) for p in found if _is_local_file_protocol(p)]
        if not local:
            return found
        try:
            return {str(usable_checkpoint(max(local, key=lambda p: p.lstat().st_mtime_ns), exact=False))}
        except InputError as error:
            rank_zero_warn(str(error))
            return set()

    # ---- how ----

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if not _is_local_file_protocol(filepath):  # object stores show a file when it is whole
            super()._save_checkpoint(trainer, filepath)
            return
        path = Path(filepath)
        partial = path.with_name(path.name + PARTIAL)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
        _reopen_epoch(trainer, checkpoint)
        with raise_on_all_ranks(f"saving {path.name}"):
            sums: dict[str, Sum] = {}
            try:
                with _with_checksums():
                    trainer.strategy.save_checkpoint(checkpoint, partial)
                if partial.is_dir():
                    sums = shard_checksums(partial, trainer.global_rank)
            except (Exception, CheckpointException) as error:  # the second, of shards, is no Exception
                _remove(partial)
                failure = _storage_failure(error)
                if failure is None:  # a callback whose state cannot be saved, say: no full disk
                    raise
                raise self._not_saved(path, failure) from error
        known = gather(sums)
        with raise_on_all_ranks(f"saving {path.name}"):
            if trainer.is_global_zero:
                try:
                    if partial.is_dir():
                        write_checksums(partial, known)
                    _take_its_place(partial, path)
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


def _reopen_epoch(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Lightning counts an epoch that was cut short as done: a run saved then would be over for ``max_epochs``."""
    if "loops" not in checkpoint:  # weights alone
        return
    loop = checkpoint["loops"]["fit_loop"]
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
    cut_short = not batches["is_last_batch"] and batches["current"]["processed"] < trainer.num_training_batches
    if cut_short and epochs["current"]["started"] > 0:
        for counts in (epochs["total"], epochs["current"]):
            counts["processed"] = counts["completed"] = counts["started"] - 1
        checkpoint["epoch"] = epochs["current"]["processed"]


@contextmanager
def _with_checksums() -> Iterator[None]:
    """Let ``torch.save`` compute its archives' checksums, which a program can switch off."""
    wanted = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(wanted)


def _make_ready(folder: Path) -> None:
    """Find out now whether the folder can be written; take away what a killed run left half written."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
        bring_back(folder)
        for leftover in folder.glob(f"*{PARTIAL}"):
            rank_zero_warn(f"{leftover} was not written to its end, by a run that was killed: removed")
            _remove(leftover)
    except OSError as error:
        raise StorageError(
            f"checkpoints cannot be written to {folder} ({error.strerror or error}); make it writable, or set another dirpath "
            "of SafeCheckpoint or another trainer.default_root_dir"
        ) from error


def _take_its_place(partial: Path, path: Path) -> None:
    """On disk first, then under its name. A folder cannot replace one: the old one steps aside and then goes."""
    files = [partial] if partial.is_file() else [p for p in partial.rglob("*") if p.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    aside = path.with_name(path.name + ASIDE)
    if path.is_symlink() and partial.is_dir():
        path.unlink()
    elif path.is_dir() and not path.is_symlink():
        _remove(aside)
        path.rename(aside)
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name too, before an older checkpoint is removed
    finally:
        os.close(folder)
    _remove(aside)


def _storage_failure(error: BaseException) -> BaseException | None:
    """What the disk refused, None where the error is another's."""
    if isinstance(error, CheckpointException):  # what went wrong on each process that writes shards
        found = (_storage_failure(failure) for failure, _ in error.failures.values())
        return next((failure for failure in found if failure is not None), None)
    if isinstance(error, RuntimeError) and ("PytorchStreamWriter" in str(error) or "inline_container" in str(error)):
        # torch's archive writer closes its archive over the refused write, and says less than that.
        return error.__context__ if isinstance(error.__context__, OSError) else error
    return error if isinstance(error, OSError) else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
