"""TPGRPOModule: the policy, its frozen reference and the optimizer step. It knows nothing of judges, credit or text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal, Self, cast

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo import notices  # noqa: F401  first: it hides what the others' libraries say when imported
from lit_tpgrpo.arguments import checked_arguments, shown
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.functional.aggregation import BatchCounts, Normalisation, sequence_weights
from lit_tpgrpo.losses.base import TokenLoss, loss_inputs
from lit_tpgrpo.losses.clipped import ClippedSurrogate
from lit_tpgrpo.losses.metrics import measure
from lit_tpgrpo.losses.settings import as_loss, loss_settings
from lit_tpgrpo.pretrained import refuse_rescaled_logits
from lit_tpgrpo.records import Round, TrainBatch, TrainingSequence
from lit_tpgrpo.rollout.evaluation import EvaluationLog
from lit_tpgrpo.rollout.mismatch import warn_of_mismatch
from lit_tpgrpo.rollout.rows import judged_rows
from lit_tpgrpo.rollout.run_settings import log_run_settings
from lit_tpgrpo.training.adapters import ADAPTER, LoRA, adapter_state, check_adapter_state, check_base, plain_tensors
from lit_tpgrpo.training.batch_sums import BatchSums, sum_pieces
from lit_tpgrpo.training.checkpoints import check_before_loading, checked_path
from lit_tpgrpo.training.gradients import GradientNorm, clip_gradients, loss_scaler, step_metrics
from lit_tpgrpo.training.microbatches import MicroBatch, collate, dummy_microbatch, microbatches, token_budget_slices
from lit_tpgrpo.training.model_source import as_factory, as_model, model_source, tokenizer_name
from lit_tpgrpo.training.optimizers import check_optimizer, warn_of_coarse_weights
from lit_tpgrpo.training.policy import PolicyModel
from lit_tpgrpo.training.precision import compute_dtype, weights_dtype
from lit_tpgrpo.training.progress_bar import use_step_bar
from lit_tpgrpo.training.random_state import RANDOM_STATES, random_state, restore_random_state
from lit_tpgrpo.training.reference import AdapterOff, FrozenCopy, ReferenceName, make_reference
from lit_tpgrpo.training.schedules import check_scheduler, start_schedule
from lit_tpgrpo.training.sharding import Sharding, dtype_name, unsharded
from lit_tpgrpo.training.trainer_options import check_trainer


@checked_arguments(model=as_model, dtype=dtype_name, optimizer=as_factory, lr_scheduler=as_factory, loss=as_loss)
class TPGRPOModule(L.LightningModule):
    """GRPO with per-token advantages, optimised manually: one ``TrainBatch`` is one optimizer step.

    Args:
        model: Hugging Face folder or hub name, or ``embedded:tiny-qwen2``, which ships with the package; in Python also a
            ``PreTrainedModel``, which is trained itself, with its weights put into ``dtype``.
        optimizer: called with the trainable parameters.
        lr_scheduler: called with the optimizer and stepped once per optimizer step.
        loss: of the tokens; by default ``ClippedSurrogate`` without a KL term. See ``lit_tpgrpo.losses``.
        normalisation: how any loss is averaged over the step's tokens: ``token``, ``sequence`` or ``constant``.
        norm_length: the constant length of ``constant`` normalisation, usually ``max_new_tokens``.
        tokens_per_microbatch: padded tokens of one forward pass; memory grows with it, results do not change.
        max_grad_norm: gradient norm limit; None clips nothing.
        gradient_checkpointing: recompute activations in the backward pass.
        random_init: take the architecture without its weights.
        dtype: weights' dtype, e.g. ``bfloat16``; ``auto`` takes that of the checkpoint. By default float32, whatever the
            checkpoint's, for bfloat16 is too coarse for most updates (``trainer.precision`` bf16-mixed computes in it); the
            checkpoint's under an adapter, where these weights do not train.
        attention: transformers' attention implementation.
        sharding: how FSDP cuts the model, under ``ModelParallelStrategy``.
        adapter: trains low-rank adapters and leaves the model's own weights alone.
        quantization: ``nf4`` keeps these in 4 bits; needs an adapter.
        reference: what the KL term refers to: ``frozen``, a copy of the initial policy; ``offloaded``, one that comes to
            the device for its part of a step only; ``adapter_off``, the policy without its adapter; ``auto`` is
            ``adapter_off`` with an adapter and ``frozen`` without.
        tokenizer: folder, hub name or object; by default the model's own.
    """

    MOVED_ARGUMENTS: ClassVar = dict.fromkeys(
        ("clip_low", "clip_high", "kl_beta", "kl_estimator"), ("loss", "ClippedSurrogate")
    )

    def __init__(
        self,
        model: str | PreTrainedModel = "embedded:tiny-qwen2",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: TokenLoss = ClippedSurrogate(),  # noqa: B008  frozen
        normalisation: Normalisation = "token",
        norm_length: int | None = None,
        tokens_per_microbatch: int = 8192,
        max_grad_norm: float | None = 1.0,
        gradient_checkpointing: bool = False,
        random_init: bool = False,
        dtype: str | None = None,
        attention: str = "sdpa",
        sharding: Sharding | None = None,
        adapter: LoRA | None = None,
        quantization: Literal["nf4"] | None = None,
        reference: ReferenceName = "auto",
        tokenizer: str | PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        if quantization is not None and (adapter is None or random_init):
            raise ConfigError(
                "quantization 'nf4' needs a model.adapter, for 4-bit weights do not train, and weights of a checkpoint, not "
                "random_init"
            )
        _check_settings(normalisation, norm_length, tokens_per_microbatch)
        self._source = model_source(
            model, tokenizer, weights_dtype(dtype, adapter is not None), attention, random_init, quantization
        )
        model, tokenizer = self._source.name, tokenizer_name(tokenizer)  # checkpoints hold names, not objects
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", "loss", "sharding", "adapter"], logger=False)
        self.hparams["loss"] = loss_settings(loss)
        self.token_loss = loss
        self.automatic_optimization = False
        self._make_optimizer, self._make_scheduler = optimizer, lr_scheduler
        self._sharding = sharding or Sharding()
        self.adapter = adapter
        self.policy: PolicyModel | None = None
        self._given: list[dict[str, Any]] = []  # the optimizer's settings, without its parameters
        self.evaluation = EvaluationLog()
        self._steps_taken = 0
        self._random_states: list[dict[str, Any]] | None = None  # of a checkpoint, by rank
        self._base = ""  # fingerprint of the weights under the adapter
        self._round_index = -1  # of the step that is being taken
        self._gradient = GradientNorm(torch.zeros(()))  # of the last step
        self._reference: FrozenCopy | AdapterOff | None = None  # no submodule: neither trained nor saved

    # ---- the Policy protocol of lit_tpgrpo.engines.base ----

    @property
    def policy_model(self) -> PreTrainedModel:
        if self.policy is None:
            raise RuntimeError("the policy is built in configure_model, which the Trainer has not called yet")
        return self.policy.causal_lm

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._source.tokenizer

    @property
    def policy_version(self) -> int:
        """Optimizer steps taken; outside ``fit``, where Lightning counts none, those of the checkpoint that was loaded or of
        the ``fit`` before, whichever came later."""
        trainer = self._trainer
        outside = trainer is not None and trainer.state.fn != TrainerFn.FITTING
        return self._steps_taken if outside else self.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RANDOM_STATES] = gather(random_state())
        if self.adapter is not None:
            checkpoint[ADAPTER] = asdict(self.adapter) | {"base": self._base}
            # Shards are loaded by all their names, and so are the weights that Lightning's WeightAveraging keeps.
            if not isinstance(self.policy, FSDPModule) and "averaging_state" not in checkpoint:
                checkpoint["state_dict"] = adapter_state(checkpoint["state_dict"])

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, checkpoint_path: Any, *args: Any, weights_only: bool | None = None, **kwargs: Any
    ) -> Self:
        """Build the module of a checkpoint file, as Lightning's does, after it has been checked.

        Raises:
            InputError: the file is damaged, or is none that a Trainer saved.
            UnsafeCheckpointError: it could run code; with ``weights_only=False`` it is loaded.
        """
        weights_only = weights_only is not False
        checked_path(checkpoint_path, weights_only)
        return super().load_from_checkpoint(checkpoint_path, *args, weights_only=weights_only, **kwargs)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._steps_taken = checkpoint["global_step"]
        self._random_states = checkpoint.get(RANDOM_STATES)
        check_base(checkpoint.get(ADAPTER), self.adapter, self._base)
        if self.adapter is not None and not isinstance(self.policy, FSDPModule):
            check_adapter_state(self.state_dict(), checkpoint["state_dict"])
            self.strict_loading = False  # the rest is where it came from

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the policy's layers compute in, without a trainer their own dtype: an engine with weights of its own takes the
        same."""
        if self._trainer is None:
            return self.policy_model.dtype
        return compute_dtype(self.policy_model, self.trainer, self._sharding.param_dtype)

    def named_tensors(self) -> Iterable[tuple[str, Tensor]]:
        return plain_tensors(self.policy_model)

    def unsharded(self) -> AbstractContextManager[None]:
        """See ``lit_tpgrpo.engines.base.Sharded``."""
        assert self.policy is not None
        return unsharded(self.policy)

    # ---- building ----

    def configure_model(self) -> None:
        if self.policy is not None:
            return
        hp = self.hparams
        lm = self._source.build()
        refuse_rescaled_logits(lm, hp["model"])
        if hp["gradient_checkpointing"]:
            lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.adapter is not None:
            self._base = fingerprint(plain_tensors(lm))
            self.adapter.apply(lm)
        self.policy = PolicyModel(lm)
        self.policy.train()
        if self.token_loss.needs_reference():
            offloaded = replace(self._sharding, cpu_offload=True)
            self._reference = make_reference(
                hp["reference"], self.policy, self._shard, lambda model: self._shard(model, offloaded)
            )
        self._shard(self.policy)

    def _shard(self, model: PolicyModel, sharding: Sharding | None = None) -> None:
        """Cut into shards under ``ModelParallelStrategy``; nothing elsewhere."""
        mesh = self.device_mesh
        if mesh is None:
            return
        if mesh["tensor_parallel"].size() > 1 or mesh["data_parallel"].size() != self.trainer.world_size:
            raise ConfigError(
                f"the policy is sharded over all processes alone: set the strategy's data_parallel_size to the number of "
                f"processes, {self.trainer.world_size}, and tensor_parallel_size to 1; got "
                f"{mesh['data_parallel'].size()} and {mesh['tensor_parallel'].size()}"
            )
        if self.hparams["quantization"]:
            raise ConfigError("4-bit weights (quantization 'nf4') cannot be sharded; use DDP, or LoRA on whole weights")
        (sharding or self._sharding).apply(model, model.causal_lm, mesh["data_parallel"])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert, as any module's; offloaded shards stay in host memory.

        Lightning moves a sharded module to the GPU all the same, where FSDP2 refuses to go on with it.
        """
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if device is None or not (self._sharding.cpu_offload and isinstance(self.policy, FSDPModule)):
            return super().to(*args, **kwargs)
        self._device = device
        return self if dtype is None else super().to(dtype)

    def configure_optimizers(self) -> Any:
        assert self.policy is not None
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer = self._make_optimizer(iter(trained))
        check_optimizer(optimizer, trained)
        warn_of_coarse_weights(optimizer, trained)
        self._given = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        if self._make_scheduler is None:
            return optimizer
        scheduler = check_scheduler(self._make_scheduler(optimizer), self.trainer)
        # The interval tells LearningRateMonitor when to look; the module steps the schedule.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_callbacks(self) -> list[L.Callback]:
        """Add none, and put a bar over all optimizer steps in the place of Lightning's default bar. It is the first hook in
        which the trainer is known: before Lightning refuses some of its options without naming what takes their place, and
        before anything is sampled."""
        check_trainer(self.trainer, compiled=self._compiler_ctx is not None)
        check_before_loading(self.trainer)
        use_step_bar(self.trainer)
        return []

    def on_fit_start(self) -> None:
        log_run_settings(self.trainer)

    def on_train_start(self) -> None:
        """A checkpoint brings back the optimizer's settings of its time along with its state: those given now count.
        With a scheduler the learning rate is the schedule's, which goes on where it stopped."""
        if self._make_scheduler is not None:
            start_schedule(self.lr_schedulers(), self.trainer)
        else:
            optimizer = cast(LightningOptimizer, self.optimizers())
            for group, given in zip(optimizer.param_groups, self._given, strict=True):
                group.update(given)
        if self._random_states is not None:
            restore_random_state(self._random_states, self.trainer.global_rank, self.trainer.world_size)
            self._random_states = None

    # ---- one optimizer step ----

    def training_step(self, batch: TrainBatch, batch_idx: int) -> None:
        _check_batch(batch)
        started = time.perf_counter()
        optimizer = cast(LightningOptimizer, self.optimizers())
        # A corrected step's old log-probs are the trainer's: how far the engine's are was measured once for the round.
        corrected = any(s.importance_weights is not None for s in batch.sequences)
        on_policy = batch.policy_version == self.policy_version and not corrected
        counts = self._global_counts(batch)
        pieces: list[BatchSums] = []
        optimizer.zero_grad()
        micros = list(self._microbatches(batch))
        references = self._reference_logprobs(
            [micro or dummy_microbatch(self.device) for micro in micros], batch.temperature
        )
        for micro, reference in zip(micros, references, strict=True):
            loss, sums = self._loss(micro or dummy_microbatch(self.device), batch.temperature, counts, reference)
            # Lightning averages gradients over ranks; the weights already divide by the global count.
            self.manual_backward(loss * (self.trainer.world_size if micro is not None else 0))
            pieces.append(sums if micro is not None else sums.zeros_like())
        # After the sums over ranks: what is wrong on one of them stops all.
        totals = sum_pieces(pieces).reduced(self._reduce)
        self._check_finite(totals.loss.loss, batch.round_index, "loss")
        self._round_index = batch.round_index
        optimizer.step()  # clips on its way, in on_before_optimizer_step
        self._log_step(totals, on_policy, time.perf_counter() - started)
        self._step_scheduler()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip here, where gradients are unscaled in every precision."""
        assert self.policy is not None
        self._gradient = clip_gradients(
            optimizer, self.policy.parameters(), self.hparams["max_grad_norm"], loss_scaler(self.trainer)
        )
        if not self._gradient.overflowed:
            self._check_finite(self._gradient.value, self._round_index, "gradient norm")

    def _microbatches(self, batch: TrainBatch) -> Iterable[MicroBatch | None]:
        """This rank's micro-batches, topped up with None so that all ranks run the same number."""
        own = list(
            microbatches(batch.sequences, self.hparams["tokens_per_microbatch"], cast(int, self.tokenizer.pad_token_id))
        )
        most = self._most(len(own))
        yield from own
        for _ in range(most - len(own)):
            yield None

    def completion_logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[Tensor]:
        """(T,) float32 log-probs of each sequence's completion under the current weights, on the CPU, without gradient.

        Computed in micro-batches as training does. Collective: all ranks call it, each with its own sequences.
        """
        assert self.policy is not None
        budget, pad = self.hparams["tokens_per_microbatch"], cast(int, self.tokenizer.pad_token_id)
        slices = token_budget_slices([len(s) for s in sequences], budget)
        # First of all: a sharded policy gathers its layers in every forward pass, which all ranks must run as often.
        most = self._most(len(slices))
        found: dict[int, Tensor] = {}
        with torch.no_grad():
            for rows in slices:
                micro = collate([sequences[i].to(self.device) for i in rows], pad)
                logprobs = self.policy(micro, temperature)[0].float().cpu()
                found |= zip(rows, logprobs.split(micro.lengths.tolist()), strict=True)
            for _ in range(most - len(slices)):
                self.policy(dummy_microbatch(self.device), temperature)
        return [found[i] for i in range(len(sequences))]

    def _reference_logprobs(self, micros: Sequence[MicroBatch], temperature: float) -> list[Tensor | None]:
        """Of all micro-batches of a step first: an offloaded reference comes to the device once."""
        if self._reference is None:
            return [None] * len(micros)
        with self._reference.ready(self.device):
            return [self._reference.logprobs(micro, temperature) for micro in micros]

    def _loss(
        self, micro: MicroBatch, temperature: float, counts: BatchCounts, reference: Tensor | None = None
    ) -> tuple[Tensor, BatchSums]:
        assert self.policy is not None
        logprobs, entropy = self.policy(micro, temperature)
        inputs = loss_inputs(
            logprobs,
            micro.old_logprobs,
            micro.advantages,
            sequence_weights(micro.lengths, self.hparams["normalisation"], counts)[micro.row],
            micro.row,
            micro.lengths,
            importance_weights=micro.importance_weights,
            entropy=entropy,
            ref_logprobs=reference,
        )
        output = self.token_loss(inputs)
        return output.loss, BatchSums.of(measure(inputs, output), logprobs.detach(), micro.old_logprobs, entropy)

    def _global_counts(self, batch: TrainBatch) -> BatchCounts:
        """Completion tokens and sequences over all ranks: what every per-token weight divides by."""
        tokens = sum(len(s.completion_ids) for s in batch.sequences)
        both = self._reduce(
            torch.tensor([tokens, len(batch.sequences)], dtype=torch.float32, device=self.device), "sum"
        )
        length = self.hparams["norm_length"] or 1
        return BatchCounts(max(int(both[0]), 1), max(int(both[1]), 1), length)

    def _most(self, count: int) -> int:
        return int(self._reduce(torch.tensor(count, device=self.device), "max"))

    def _reduce(self, value: Tensor, op: str) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(value.clone(), reduce_op=op))

    def _check_finite(self, value: Tensor, round_index: int, what: str) -> None:
        if not torch.isfinite(value).all():
            raise NonFiniteLossError(
                f"the {what} is {float(value)} at optimizer step {self.policy_version + 1}, round {round_index}; "
                "the weights are those of the step before and checkpoints are untouched. Lower the learning rate, or "
                "train in float32, then resume with --ckpt_path"
            )

    def _step_scheduler(self) -> None:
        """After a step that was taken: one that the gradient scaler skipped leaves the schedule where it is, too."""
        scheduler = self.lr_schedulers()
        if scheduler is not None and not isinstance(scheduler, list) and not self._gradient.overflowed:
            scheduler.step()  # pyright: ignore[reportCallIssue]

    def _log_step(self, totals: BatchSums, on_policy: bool, seconds: float) -> None:
        metrics: dict[str, Any] = dict(totals.metrics(on_policy))
        metrics |= step_metrics(self._gradient, loss_scaler(self.trainer))
        if on_policy:
            warn_of_mismatch(float(metrics["mismatch/kl"]), self._round_index)
        rate = cast(LightningOptimizer, self.optimizers()).param_groups[0].get("lr")
        metrics |= {} if rate is None else {"train/lr": rate}  # None where the optimizer sets its own
        metrics["train/tokens_per_s"] = float(totals.loss.tokens) / seconds
        self.log_dict(metrics, batch_size=1)
        self.log("loss", metrics["train/loss"], prog_bar=True, logger=False, batch_size=1)

    def on_train_batch_end(self, outputs: Any, batch: TrainBatch, batch_idx: int) -> None:
        self._steps_taken = self.global_step

    # ---- evaluation and prediction: groups arrive sampled and verified, rounds judged as well ----

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Note a problem's solutions. Batches of other loaders are left alone."""
        self.evaluation.add(batch)

    def on_validation_epoch_start(self) -> None:
        self.evaluation.start()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.evaluation.finish(self, "eval")

    def on_validation_end(self) -> None:
        self.evaluation.finished(self.trainer)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As ``validation_step``."""
        self.evaluation.add(batch)

    def on_test_epoch_start(self) -> None:
        self.evaluation.start()

    def on_test_epoch_end(self) -> None:
        self.evaluation.finish(self, "test")

    def on_test_end(self) -> None:
        self.evaluation.finished(self.trainer)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """A round's solutions with their verdicts and rewards, one dictionary of plain values each (``rollout.rows``);
        batches of other loaders as they are. ``trainer.predict(..., return_predictions=False)`` keeps none in memory."""
        return judged_rows(batch) if isinstance(batch, Round) else batch


def _check_batch(batch: object) -> None:
    """Refuse batches of other loaders than those of rollouts, before anything is computed with one."""
    if not isinstance(batch, TrainBatch):
        raise ConfigError(
            f"TPGRPOModule trains on lit_tpgrpo.records.TrainBatch, and the training loader gave {shown(batch)}; pass "
            "datamodule=MathRolloutDataModule(...) to the trainer, or a loader that yields TrainBatch"
        )


def _check_settings(normalisation: Normalisation, norm_length: int | None, tokens_per_microbatch: int) -> None:
    if (normalisation == "constant") != (norm_length is not None):
        raise ConfigError(
            f"norm_length belongs to normalisation 'constant' and is needed there; got {normalisation!r} with "
            f"norm_length {norm_length}"
        )
    if tokens_per_microbatch < 1:
        raise ConfigError(f"tokens_per_microbatch must be at least 1, got {tokens_per_microbatch}")
