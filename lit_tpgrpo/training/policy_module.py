"""A LightningModule that holds a policy: builds and shards it, saves and restores it, lends its weights to engines."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Self, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.engines.base import AdapterWeights
from lit_tpgrpo.protocol_check import accept_by_methods
from lit_tpgrpo.training.adapter_tensors import adapter_tensors, base_tensors, plain_tensors
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.batching_choice import choose_batching
from lit_tpgrpo.training.building import build_policy, shard_over_all_ranks
from lit_tpgrpo.training.checkpoints import checked_path
from lit_tpgrpo.training.checkpoints.module_state import add_module_state, check_module_state
from lit_tpgrpo.training.evaluated_module import EvaluatedModule
from lit_tpgrpo.training.microbatches import MicroBatching
from lit_tpgrpo.training.model_source import ModelSource
from lit_tpgrpo.training.policy import PolicyModel
from lit_tpgrpo.training.precision import compute_dtype
from lit_tpgrpo.training.random_state import RANDOM_STATES, restore_random_state
from lit_tpgrpo.training.sharding import Sharding, is_sharded, unsharded

_SOLUTIONS = "solutions_trained"


class PolicyModule(EvaluatedModule):
    """The policy of a module, whatever it is trained with: the ``Policy`` protocol of ``lit_tpgrpo.engines.base``.

    Args:
        source: where the model and its tokenizer come from.
        adapter: put on the model when it is built; its weights alone are saved.
        sharding: how FSDP shards it, under ``ModelParallelStrategy``.

    Attributes:
        solutions_trained: solutions in the optimizer steps so far, over all ranks; None if a checkpoint does not say.
        policy: None until ``configure_model``, which also reads ``gradient_checkpointing`` and ``quantization`` of ``hparams``;
            ``batching`` reads the option of its name there.
    """

    def __init__(self, source: ModelSource, adapter: LoRA | None, sharding: Sharding | None) -> None:
        super().__init__()
        self._source, self.adapter, self._sharding = source, adapter, sharding or Sharding()
        self.policy: PolicyModel | None = None
        self._batching: MicroBatching | None = None  # chosen at its first use
        self._base = ""  # fingerprint of the weights under the adapter
        self._random_states: list[dict[str, Any]] | None = None  # of a checkpoint, by rank
        self._steps_taken = 0
        self.solutions_trained: int | None = 0

    @property
    def policy_model(self) -> PreTrainedModel:
        """The model that is trained, adapters included; built in ``configure_model``."""
        return self._built_policy.causal_lm

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model."""
        return self._source.tokenizer

    @property
    def policy_version(self) -> int:
        """Optimizer steps taken; outside ``fit``, where Lightning counts none, those of the checkpoint that was loaded or of
        the ``fit`` before, whichever came later."""
        trainer = self._trainer
        outside = trainer is not None and trainer.state.fn != TrainerFn.FITTING
        return self._steps_taken if outside else self.global_step

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype in which the policy's layers compute, for engines with their own copy of the weights; without a trainer the
        weights' dtype."""
        if self._trainer is None:
            return self.policy_model.dtype
        return compute_dtype(self.policy_model, self.trainer, self._sharding.param_dtype)

    def named_tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Yield all weights by their Hugging Face names, adapters merged. Collective where the model is sharded."""
        return plain_tensors(self.policy_model)

    def adapter_weights(self) -> AdapterWeights | None:
        """Return the adapter apart from the weights that it adapts, see ``lit_tpgrpo.engines.base.AdaptedPolicy``."""
        if self.adapter is None:
            return None
        model = self.policy_model
        return AdapterWeights(
            self.adapter.rank,
            self._base,
            partial(base_tensors, model),
            partial(adapter_tensors, model),
            is_sharded(model),
        )

    def unsharded(self) -> AbstractContextManager[None]:
        """Unshard the policy within the context, see ``lit_tpgrpo.engines.base.Sharded``."""
        return unsharded(self._built_policy)

    @property
    def _built_policy(self) -> PolicyModel:
        if self.policy is None:
            raise RuntimeError("the policy is built in configure_model, which the Trainer has not called yet")
        return self.policy

    def configure_model(self) -> None:
        if self.policy is not None:
            return
        self.policy, self._base = build_policy(self._source, self.adapter, self.hparams["gradient_checkpointing"])
        self.on_policy_built(self.policy)
        self._shard(self.policy)

    def on_policy_built(self, policy: PolicyModel) -> None:
        """Hook of subclasses: copy what is needed of the initial policy before it is sharded."""

    def _shard(self, model: PolicyModel, sharding: Sharding | None = None) -> None:
        if self.device_mesh is not None:
            quantized = self.hparams["quantization"] is not None
            sharding = sharding or self._sharding
            shard_over_all_ranks(model, self.device_mesh, self.trainer.world_size, sharding, quantized)

    def _shard_offloaded(self, model: PolicyModel) -> None:
        self._shard(model, replace(self._sharding, cpu_offload=True))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert as any module does, except that offloaded shards stay in host memory.

        Lightning moves a sharded module to the GPU even so, and FSDP2 refuses to run it there.
        """
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if device is None or not (self._sharding.cpu_offload and isinstance(self.policy, FSDPModule)):
            return super().to(*args, **kwargs)
        self._device = device
        return self if dtype is None else super().to(dtype)

    @property
    def batching(self) -> MicroBatching:
        """How solutions are put into micro-batches. Collective at its first use, which tries the policy on a few tokens."""
        if self._batching is None:
            pad_id = cast(int, self.tokenizer.pad_token_id)
            self._batching = choose_batching(
                self.hparams["batching"], self._built_policy, pad_id, self.device, self._max_over_ranks
            )
        return self._batching

    def _max_over_ranks(self, count: int) -> int:
        return int(self._reduce(torch.tensor(count, device=self.device), "max"))

    def _reduce(self, value: Tensor, op: str) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(value.clone(), reduce_op=op))

    # ---- checkpoints ----

    def count_solutions(self, solutions: int) -> None:
        """Add the solutions of an optimizer step, over all ranks."""
        if self.solutions_trained is not None:
            self.solutions_trained += solutions

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_SOLUTIONS] = self.solutions_trained
        add_module_state(checkpoint, self.policy, self.adapter, self._base)

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, checkpoint_path: Any, *args: Any, weights_only: bool | None = None, **kwargs: Any
    ) -> Self:
        """Build the module of a checkpoint file as Lightning does, after checking the file.

        Code that comes with its model runs only if ``trust_remote_code=True`` is given here, whatever the file says.

        Raises:
            InputError: the file is damaged, or was not saved by a Trainer.
            UnsafeCheckpointError: it could run code; with ``weights_only=False`` it is loaded.
        """
        accept_by_methods()  # else the parser refuses a loss of the user's that training accepted
        weights_only = weights_only is not False
        checked_path(checkpoint_path, weights_only)
        if "trust_remote_code" in inspect.signature(cls.__init__).parameters:
            kwargs.setdefault("trust_remote_code", False)
        return super().load_from_checkpoint(checkpoint_path, *args, weights_only=weights_only, **kwargs)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._steps_taken = checkpoint["global_step"]
        self.solutions_trained = checkpoint.get(_SOLUTIONS)  # not in those of earlier versions
        self._random_states = checkpoint.get(RANDOM_STATES)
        if not check_module_state(checkpoint, self, self.policy, self.adapter, self._base):
            self.strict_loading = False  # base weights are reloaded from the original model

    def restore_random_states(self) -> None:
        """Restore this rank's random state of the checkpoint that was loaded, if one was."""
        if self._random_states is not None:
            restore_random_state(self._random_states, self.trainer.global_rank, self.trainer.world_size)
            self._random_states = None
