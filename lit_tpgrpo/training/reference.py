"""The frozen initial policy of the KL term: a copy, on the device or offloaded, or the policy without its adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.training.adapters import adapter_layers, without_adapters
from lit_tpgrpo.training.microbatches import MicroBatch
from lit_tpgrpo.training.policy import PolicyModel

ReferenceName = Literal["auto", "frozen", "offloaded", "adapter_off"]


class Reference(Protocol):
    """Log-probs of the initial policy. Under sharding every forward pass is collective."""

    def models(self) -> list[PreTrainedModel]:
        """Return the models that it has besides the policy."""
        ...

    def ready(self, device: torch.device) -> AbstractContextManager[None]:
        """Return a context around the forward passes of one optimizer step."""
        ...

    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        """Compute (N,) float32 log-probs of ``batch.targets``, without gradient."""
        ...


class FrozenCopy:
    """A copy of the policy as it is now.

    Args:
        policy: with its initial weights, not sharded.
        shard: cuts the copy as the policy is cut.
    """

    def __init__(self, policy: PolicyModel, shard: Callable[[PolicyModel], None]) -> None:
        self.model = copy.deepcopy(policy).requires_grad_(False).eval()
        shard(self.model)

    def models(self) -> list[PreTrainedModel]:
        """Return the copy."""
        return [self.model.causal_lm]

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """Keep the copy on the device from the first step on."""
        if not isinstance(self.model, FSDPModule):  # shards are on their device already
            self.model.to(device)
        yield

    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        """See ``Reference``."""
        with torch.no_grad():
            return self.model(batch, temperature)[0]


class OffloadedCopy(FrozenCopy):
    """A copy in host memory that is on the device during its part of each step only; if sharded, layer by layer (``shard``)."""

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """Move the copy to the device, and back to host memory at the end."""
        if isinstance(self.model, FSDPModule):
            yield
            return
        self.model.to(device)
        try:
            yield
        finally:
            self.model.to("cpu")


class AdapterOff:
    """The policy with its adapter disabled: base weights are frozen, so this is the initial policy at no memory cost."""

    def __init__(self, policy: PolicyModel) -> None:
        self.policy = policy

    def models(self) -> list[PreTrainedModel]:
        """Return none: it is the policy."""
        return []

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """Disable the adapter and dropout; nothing has to move."""
        training = self.policy.training
        self.policy.eval()
        try:
            with without_adapters(self.policy):
                yield
        finally:
            self.policy.train(training)

    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        """See ``Reference``."""
        with torch.no_grad():
            return self.policy(batch, temperature)[0]


def check_initial(name: ReferenceName, policy: PolicyModel, steps: int) -> None:
    """Check that the reference can be built of a policy as it is now, which an earlier stage of the Trainer may have built.

    Args:
        name: of the reference.
        policy: as it is now.
        steps: optimizer steps behind its weights.

    Raises:
        ConfigError: the initial weights are gone, or are sharded, so that there is nothing to copy.
    """
    if name != "frozen" and name != "offloaded" and adapter_layers(policy):
        return
    if steps or isinstance(policy, FSDPModule):
        state = f"has taken {steps} optimizer steps" if steps else "is sharded already"
        raise ConfigError(
            f"a KL term needs a copy of the initial policy, and this module has none and {state}: only fit with a KL term "
            "keeps one, validate, test and predict do not. Give fit a new TPGRPOModule, with the checkpoint as ckpt_path"
        )


def make_reference(
    name: ReferenceName,
    policy: PolicyModel,
    shard: Callable[[PolicyModel], None],
    shard_offloaded: Callable[[PolicyModel], None],
) -> FrozenCopy | AdapterOff:
    """Build the reference of a policy that has its initial weights and is not sharded yet.

    Raises:
        ConfigError: ``adapter_off`` without an adapter.
    """
    adapted = bool(adapter_layers(policy))
    if name == "adapter_off" and not adapted:
        raise ConfigError(
            "reference 'adapter_off' needs a model.adapter: without one the policy itself would be its reference"
        )
    if name == "adapter_off" or (name == "auto" and adapted):
        return AdapterOff(policy)
    return OffloadedCopy(policy, shard_offloaded) if name == "offloaded" else FrozenCopy(policy, shard)
