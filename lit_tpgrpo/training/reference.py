"""The frozen initial policy that the KL term holds on to: a copy of it, on the device or not, or the policy without adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.training.adapters import adapter_layers, without_adapters
from lit_tpgrpo.training.microbatches import MicroBatch
from lit_tpgrpo.training.policy import PolicyModel

ReferenceName = Literal["auto", "frozen", "offloaded", "adapter_off"]


class Reference(Protocol):
    """Log-probs of the initial policy. Under sharding every forward pass is collective."""

    def ready(self, device: torch.device) -> Iterator[None]:
        """A context around the forward passes of one optimizer step."""
        ...

    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        """(N,) float32 log-probs of ``batch.targets``, without gradient."""
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

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """On the device from the first step on."""
        if not isinstance(self.model, FSDPModule):  # shards are where they belong
            self.model.to(device)
        yield

    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        """See ``Reference``."""
        with torch.no_grad():
            return self.model(batch, temperature)[0]


class OffloadedCopy(FrozenCopy):
    """A copy that lies in host memory and comes to the device for its part of each step only. Sharded, it comes layer by
    layer: ``shard`` sees to that."""

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """On the device meanwhile."""
        if isinstance(self.model, FSDPModule):
            yield
            return
        self.model.to(device)
        try:
            yield
        finally:
            self.model.to("cpu")


class AdapterOff:
    """The policy's own weights without their adapter: the initial policy, for these never train. No memory of its own."""

    def __init__(self, policy: PolicyModel) -> None:
        self.policy = policy

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """Nothing has to move; a model with dropout keeps it to the policy."""
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


def make_reference(
    name: ReferenceName,
    policy: PolicyModel,
    shard: Callable[[PolicyModel], None],
    shard_offloaded: Callable[[PolicyModel], None],
) -> FrozenCopy | AdapterOff:
    """The reference of a policy that has its initial weights and is not sharded yet.

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
