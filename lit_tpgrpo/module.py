"""TPGRPOModule: the policy, its frozen reference and the optimizer step. It knows nothing of judges, credit or text."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, ClassVar, Literal, cast

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo import notices  # noqa: F401  first: it silences third-party import messages
from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.functional.aggregation import BatchCounts, Normalisation
from lit_tpgrpo.losses.base import TokenLoss
from lit_tpgrpo.losses.clipped import ClippedSurrogate
from lit_tpgrpo.losses.metrics import LossMetrics
from lit_tpgrpo.losses.settings import as_loss, loss_settings
from lit_tpgrpo.losses.vespo import check_correction
from lit_tpgrpo.pretrained import HubOptions
from lit_tpgrpo.records import TrainBatch, TrainingSequence
from lit_tpgrpo.rollout.reference import needs_reference
from lit_tpgrpo.rollout.run_settings import log_run_settings
from lit_tpgrpo.training.adapter_tensors import plain_parameters
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.batching_choice import BatchingName
from lit_tpgrpo.training.building import check_settings
from lit_tpgrpo.training.checkpoints import check_before_loading
from lit_tpgrpo.training.gradients import GradientNorm, clip_gradients, loss_scaler
from lit_tpgrpo.training.loss_state import KeptLossState
from lit_tpgrpo.training.microbatches import MicroBatch, MicroBatching, dummy_microbatch
from lit_tpgrpo.training.model_source import as_factory, as_model, model_source, tokenizer_name
from lit_tpgrpo.training.optimizer_step import (
    check_advantages,
    check_batch,
    check_finite,
    count_batch,
    entropy_threshold,
    is_on_policy,
    log_step,
    microbatch_loss,
    rank_microbatches,
)
from lit_tpgrpo.training.optimizers import build_optimizer, settings_of_groups
from lit_tpgrpo.training.policy import PolicyModel
from lit_tpgrpo.training.policy_module import PolicyModule
from lit_tpgrpo.training.precision import weights_dtype
from lit_tpgrpo.training.progress_bar import use_step_bar
from lit_tpgrpo.training.rank_balance import balance_ranks, hidden_size
from lit_tpgrpo.training.reference import AdapterOff, FrozenCopy, ReferenceName, check_initial, make_reference
from lit_tpgrpo.training.schedules import check_scheduler, restore_settings, start_schedule
from lit_tpgrpo.training.scoring import completion_logprobs, reference_logprobs
from lit_tpgrpo.training.sharding import Sharding, dtype_name
from lit_tpgrpo.training.trainer_options import check_trainer


@checked_arguments(model=as_model, dtype=dtype_name, optimizer=as_factory, lr_scheduler=as_factory, loss=as_loss)
class TPGRPOModule(PolicyModule):
    """GRPO with per-token advantages, optimised manually: one ``TrainBatch`` is one optimizer step.

    Args:
        model: Hugging Face folder or hub name, or ``embedded:tiny-qwen2``, which ships with the package; in Python also a
            ``PreTrainedModel``, which is trained itself, with its weights put into ``dtype``.
        optimizer: called with the trainable parameters.
        lr_scheduler: called with the optimizer and stepped once per optimizer step.
        loss: of the tokens; by default ``ClippedSurrogate`` without a KL term. See ``lit_tpgrpo.losses``.
        normalisation: how any loss is averaged over the step's tokens: ``token``, ``sequence``, ``sequence_sum`` or
            ``constant``, see ``lit_tpgrpo.functional.aggregation``.
        norm_length: the constant length of ``constant`` normalisation, usually ``max_new_tokens``.
        tokens_per_microbatch: tokens of one forward pass, padding included; memory grows with it, results do not change.
        batching: how solutions share a forward pass: ``padded``, right padding, without an attention mask if the model is found
            to be causal; ``packed``, one row without padding, in which a group's prompt is forwarded once; ``masked``, padding
            with a mask; ``auto``, see ``lit_tpgrpo.training.batching_choice``. Results do not change.
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
        revision: branch, tag or commit of a model on the hub; give a commit to make the run reproducible.
        trust_remote_code: run Python code that comes with the model, with your rights. Checkpoints do not hold it: whoever
            loads one says so again.
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
        batching: BatchingName = "auto",
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
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        check_settings(quantization, adapter, random_init, normalisation, norm_length, tokens_per_microbatch)
        weights = weights_dtype(dtype, adapter is not None)
        source = model_source(
            *(model, tokenizer, weights, attention, random_init, quantization), HubOptions(revision, trust_remote_code)
        )
        super().__init__(source, adapter, sharding)
        model, tokenizer = source.name, tokenizer_name(tokenizer)  # checkpoints hold names, not objects
        ignored = ["optimizer", "lr_scheduler", "loss", "sharding", "adapter", "trust_remote_code"]
        self.save_hyperparameters(ignore=ignored, logger=False)
        self.hparams["loss"] = loss_settings(loss)
        self.automatic_optimization = False
        self._make_optimizer, self._make_scheduler, self.token_loss = optimizer, lr_scheduler, loss
        self._loss_state = KeptLossState(loss)
        self._reference: FrozenCopy | AdapterOff | None = None  # no submodule: neither trained nor saved
        self._reference_weights = ""  # fingerprint, for a credit with a KL term
        self._optimizer_settings: list[dict[str, Any]] = []  # by parameter group
        self._round_index = -1  # of the step that is being taken
        self._gradient = GradientNorm(torch.zeros(()))  # of the last step

    # ---- building ----

    def setup(self, stage: str) -> None:
        """Keep the reference of a policy that was built before this ``fit``, by ``validate`` for one, which needs none."""
        if stage == "fit" and self.policy is not None:
            self._keep_reference(self.policy, self._steps_taken)

    def on_policy_built(self, policy: PolicyModel) -> None:
        """Keep the reference, unless nothing is trained."""
        if self._trainer is None or self._trainer.state.fn == TrainerFn.FITTING:
            self._keep_reference(policy, steps=0)

    def _keep_reference(self, policy: PolicyModel, steps: int) -> None:
        """Build the reference of a policy of ``steps``, if the loss or the credit needs one and there is none.

        Raises:
            ConfigError: see ``check_initial``.
        """
        name, reference = self.hparams["reference"], self._reference
        in_credit = needs_reference(getattr(getattr(self._trainer, "datamodule", None), "credit", None))
        if not (in_credit or self.token_loss.needs_reference()):
            return
        if reference is None:
            check_initial(name, policy, steps)
        if in_credit and not self._reference_weights:
            initial = reference.model if isinstance(reference, FrozenCopy) else policy
            self._reference_weights = self._base or fingerprint(plain_parameters(initial.causal_lm))
        if reference is None:
            self._reference = make_reference(name, policy, self._shard, self._shard_offloaded)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self._make_optimizer, self._built_policy)
        self._optimizer_settings = settings_of_groups(optimizer)
        if self._make_scheduler is None:
            return optimizer
        scheduler = check_scheduler(self._make_scheduler(optimizer), self.trainer)
        # The interval tells LearningRateMonitor when to look; the module steps the schedule.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_callbacks(self) -> list[L.Callback]:
        """Check the trainer and use one progress bar over all optimizer steps; add no callback.

        This is the first hook that knows the trainer: Lightning has not refused any option yet, and nothing is sampled.
        """
        check_trainer(self.trainer, compiled=self._compiler_ctx is not None)
        check_correction(self.token_loss, getattr(getattr(self.trainer, "datamodule", None), "correction", None))
        check_before_loading(self.trainer)
        use_step_bar(self.trainer)
        return []

    def on_fit_start(self) -> None:
        log_run_settings(self.trainer)

    def on_train_start(self) -> None:
        """Put the given optimizer settings in the place of those that a checkpoint restored with the optimizer's state.

        With a scheduler the learning rate is the schedule's, which continues where it stopped.
        """
        optimizer = cast(LightningOptimizer, self.optimizers())
        scheduler = None if self._make_scheduler is None else self.lr_schedulers()
        restore_settings(optimizer.param_groups, self._optimizer_settings, scheduler)
        if scheduler is not None:
            start_schedule(scheduler, self.trainer)
        self.restore_random_states()

    def _models(self) -> list[PreTrainedModel]:
        return [self.policy_model, *(self._reference.models() if self._reference is not None else ())]

    # ---- one optimizer step ----

    def training_step(self, batch: TrainBatch, batch_idx: int) -> None:
        """Take one optimizer step on a batch, micro-batch by micro-batch."""
        check_batch(batch)
        check_advantages(self.token_loss, batch, self._max_over_ranks)
        with self.batching.ready(self._models()):
            self._take_step(batch, self.batching)

    def _take_step(self, batch: TrainBatch, batching: MicroBatching) -> None:
        started = time.perf_counter()
        optimizer = cast(LightningOptimizer, self.optimizers())
        on_policy = is_on_policy(batch, self.policy_version)
        counts = count_batch(batch, self.hparams["norm_length"], self._reduce, self.device)
        optimizer.zero_grad()
        sequences = balance_ranks(batch.sequences, hidden_size(self.policy_model), self.device)
        micros = rank_microbatches(sequences, self.hparams["tokens_per_microbatch"], batching, self._max_over_ranks)
        batches = [micro or dummy_microbatch(batching, self.device) for micro in micros]
        reference = self._reference if self.token_loss.needs_reference() else None
        references = reference_logprobs(reference, batches, batch.temperature, self.device)
        threshold = entropy_threshold(self._built_policy, self.token_loss, micros, batches, batch.temperature)
        pieces: list[LossMetrics] = []
        for micro, padded, reference in zip(micros, batches, references, strict=True):
            loss, sums = self._loss(padded, batch.temperature, counts, reference, threshold)
            # Lightning averages gradients over ranks; the weights already divide by the global count.
            self.manual_backward(loss * (self.trainer.world_size if micro is not None else 0))
            pieces.append(sums if micro is not None else sums.zeros_like())
        # After the sums over ranks: what is wrong on one of them stops all.
        totals = reduce(operator.add, pieces).reduce(lambda t: self._reduce(t, "sum"), lambda t: self._reduce(t, "max"))
        check_finite(totals.loss, "loss", self.policy_version + 1, batch.round_index)
        self._round_index = batch.round_index
        optimizer.step()  # clips on its way, in on_before_optimizer_step
        self.count_solutions(counts.sequences)  # a batch that a failed step leaves is taken again
        self._loss_state.advance(totals)
        log_step(self, totals, self._gradient, on_policy, batch.round_index, time.perf_counter() - started)
        self._step_scheduler()

    def _loss(
        self,
        micro: MicroBatch,
        temperature: float,
        counts: BatchCounts,
        reference: Tensor | None,
        threshold: Tensor | None,
    ) -> tuple[Tensor, LossMetrics]:
        policy, normalisation, state = self._built_policy, self.hparams["normalisation"], self._loss_state.value
        return microbatch_loss(
            policy, self.token_loss, micro, temperature, normalisation, counts, reference, threshold, state
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip here, where gradients are unscaled in every precision."""
        scaler = loss_scaler(self.trainer)
        parameters = self._built_policy.parameters()
        self._gradient = clip_gradients(optimizer, parameters, self.hparams["max_grad_norm"], scaler)
        if not self._gradient.overflowed:
            check_finite(self._gradient.value, "gradient norm", self.policy_version + 1, self._round_index)

    def _step_scheduler(self) -> None:
        """Step the schedule, unless the gradient scaler skipped the optimizer step."""
        scheduler = self.lr_schedulers()
        if scheduler is not None and not isinstance(scheduler, list) and not self._gradient.overflowed:
            scheduler.step()  # pyright: ignore[reportCallIssue]

    def on_train_batch_end(self, outputs: Any, batch: TrainBatch, batch_idx: int) -> None:
        self._steps_taken = self.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self._loss_state.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._loss_state.load(checkpoint)

    def completion_logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[Tensor]:
        """Compute the log-probs of completions under the current weights, see ``training.scoring``. Collective."""
        policy = self._built_policy
        return self._score(lambda micro: policy(micro, temperature)[0], sequences)

    def completion_reference_logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[Tensor]:
        """Compute the log-probs of completions under the reference, for a KL term in the reward. Collective."""
        reference = self._reference
        if reference is None:
            raise RuntimeError(
                "there is no reference: neither the loss nor data.credit needed one when the policy was built"
            )
        with reference.ready(self.device):
            return self._score(lambda micro: reference.logprobs(micro, temperature), sequences)

    def _score(
        self, logprobs_of: Callable[[MicroBatch], Tensor], sequences: Sequence[TrainingSequence]
    ) -> list[Tensor]:
        budget, batching = self.hparams["tokens_per_microbatch"], self.batching
        with batching.ready(self._models()):
            return completion_logprobs(logprobs_of, sequences, budget, batching, self.device, self._max_over_ranks)

    def reference_fingerprint(self) -> str:
        """Return the fingerprint of the reference's weights, of the same weights the same; "" if data.credit needs none."""
        return self._reference_weights
