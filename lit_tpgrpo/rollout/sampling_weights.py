"""The weights that sample a round while the trainer goes on to others: a file beside the round, until it is sampled whole.

An engine reads them from there whenever it needs them: when the round begins, when a server comes back, and in a resumed run,
whose checkpoint has later weights. Of a policy that trains adapters the file has these alone: the weights beneath are the same.
The trainer reads them to score solutions that come when it has gone on already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.engines.base import AdaptedPolicy, AdapterWeights, Policy
from lit_tpgrpo.errors import ConfigError, StorageError

# In the file's metadata. Safetensors does not keep the order of tensors.
_NAMES = "names"
_RANK = "adapter_rank"  # if the tensors are those of an adapter


def weights_path(folder: Path) -> Path:
    """Return where a round's folder keeps the weights that sample it."""
    return folder / "weights.safetensors"


class StoredPolicy:
    """A ``Policy`` with the weights in a file, and everything else of the policy in training.

    Args:
        policy: in training.
        version: optimizer steps behind the weights in the file.
        path: of the file; it is read at each pass over ``named_tensors``.
    """

    def __init__(self, policy: Policy, version: int, path: Path) -> None:
        self._policy, self._version, self._path = policy, version, path

    @property
    def policy_model(self) -> PreTrainedModel:
        """The model in training: its configuration and device, not the weights of this policy."""
        return self._policy.policy_model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._policy.tokenizer

    @property
    def policy_version(self) -> int:
        return self._version

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights in the policy's order, on its device; an adapter merged in float32. Not collective."""
        weights = self.adapter_weights()
        return self._stored() if weights is None else weights.merged()

    def adapter_weights(self) -> AdapterWeights | None:
        """Return the adapter in the file, and the weights beneath it of the policy in training; None if the file has all.

        Raises:
            ConfigError: the policy in training is sharded: its weights cannot be had whenever the engine needs them.
        """
        with safe_open(self._path, "pt") as file:
            rank = file.metadata().get(_RANK)
        if rank is None:
            return None
        now = unsharded_adapter(self._policy)
        if now is None:  # a checkpoint of another model or adapter is refused before
            raise ConfigError(
                f"a run that does not shard its weights began to sample the round in {self._path.parent}, and this one does; "
                f"resume without sharding, or delete {self._path.name} there: the round is then sampled again"
            )
        return replace(now, rank=int(rank), tensors=self._stored)

    def _stored(self) -> Iterator[tuple[str, Tensor]]:
        device = self.policy_model.device
        with safe_open(self._path, "pt") as file:
            for name in json.loads(file.metadata()[_NAMES]):
                yield name, file.get_tensor(name).to(device)


def unsharded_adapter(policy: Policy) -> AdapterWeights | None:
    """Return a policy's adapter apart from its weights; None without one, or where getting at the weights is collective."""
    weights = policy.adapter_weights() if isinstance(policy, AdaptedPolicy) else None
    return None if weights is None or weights.sharded else weights


def store_weights(trainer: L.Trainer, policy: Policy, path: Path) -> None:
    """Write the policy's weights, or its adapter alone, to a file, once on each machine; it is whole or absent. Collective.

    Raises:
        StorageError: it cannot be written.
    """
    writes = trainer.local_rank == 0
    tensors: dict[str, Tensor] = {}
    adapter = unsharded_adapter(policy)
    kind = {} if adapter is None else {_RANK: str(adapter.rank)}
    for name, tensor in policy.named_tensors() if adapter is None else adapter.tensors():  # collective where sharded
        if writes:
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    with raise_on_all_ranks("storing the weights that sample a round"):
        if writes:
            _write(tensors, path, trainer.global_rank, {_NAMES: json.dumps(list(tensors)), **kind})


def _write(tensors: Mapping[str, Tensor], path: Path, rank: int, metadata: dict[str, str]) -> None:
    partial = path.with_suffix(f".{rank}.partial")
    try:
        save_file(dict(tensors), partial, metadata=metadata)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the weights that sample a round cannot be stored in {path.parent} ({error}); free space, set "
            "data.store_dir, or data.schedule to streamed, which stores none"
        ) from error


# ---- the same weights for the trainer ----


def trained_path(policy: Policy, folder: Path) -> Path:
    """Return where a round's folder has what the policy trains: with all other weights, but for adapters in their own file.

    ``weights_path`` has adapters as engines take them, in float32 and scaled: not always what the trainer had, bit for bit.
    """
    adapted = isinstance(policy, AdaptedPolicy) and policy.adapter_weights() is not None
    return folder / "adapter.safetensors" if adapted else weights_path(folder)


def store_trained(trainer: L.Trainer, policy: Policy, folder: Path) -> None:
    """Write what the policy trains, so that ``weights_of_round`` finds it, where ``store_weights`` has not. Collective.

    Raises:
        ConfigError: the weights are sharded.
        StorageError: they cannot be written.
    """
    path = trained_path(policy, folder)
    with raise_on_all_ranks("storing the weights that sample a round"):
        parameters = _trained(policy)
        if trainer.local_rank == 0 and path != weights_path(folder):
            tensors = {name: p.detach().to("cpu", copy=True).contiguous() for name, p in parameters.items()}
            _write(tensors, path, trainer.global_rank, {})


@contextmanager
def weights_of_round(policy: Policy, path: Path) -> Iterator[None]:
    """Give the policy the weights at ``trained_path`` within the context, in place, and then its own again, bit for bit.

    It costs the time of reading the file and room for one more copy of what the policy trains.
    """
    parameters = _trained(policy)
    own = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        with torch.no_grad(), safe_open(path, "pt") as file:
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(name))
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(own[name])


def is_whole(policy: Policy) -> bool:
    """Return whether what the policy trains is not sharded."""
    return not any(isinstance(p, DTensor) for p in policy.policy_model.parameters())


def _trained(policy: Policy) -> dict[str, Tensor]:
    parameters: dict[str, Tensor] = {name: p for name, p in policy.policy_model.named_parameters() if p.requires_grad}
    if not is_whole(policy):
        raise ConfigError(
            "data.schedule pipelined with log-probs of the trainer (data.correction, a KL term in the reward) needs weights "
            "that are not sharded; set data.correction to off, train without FSDP, or take data.schedule streamed or ahead"
        )
    return parameters
