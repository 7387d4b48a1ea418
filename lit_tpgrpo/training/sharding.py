"""Shard a model by its decoder layers with FSDP2, and unshard it for sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lit_tpgrpo.arguments import accepted, checked_arguments
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import fingerprint


@checked_arguments()
@dataclass(frozen=True)
class Sharding:
    """Settings of FSDP2; they have an effect under ``ModelParallelStrategy`` only.

    Args:
        param_dtype: what layers compute in, e.g. ``bfloat16``; the shards that are trained keep the weights' own dtype.
        reduce_dtype: what gradients are summed in over processes.
        reshard_after_forward: free a layer's gathered weights after its forward pass, and gather them again for the
            backward pass: less memory, more communication.
        cpu_offload: keep shards, gradients and the optimizer's state in host memory. Gradients are then clipped there: on GPUs
            the strategy needs ``process_group_backend: "cpu:gloo,cuda:nccl"``.
    """

    param_dtype: str | None = None
    reduce_dtype: str | None = "float32"
    reshard_after_forward: bool = True
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        for name in ("param_dtype", "reduce_dtype"):
            torch_dtype(getattr(self, name), name)

    def apply(self, model: nn.Module, causal_lm: PreTrainedModel, mesh: DeviceMesh) -> None:
        """Shard each decoder layer, then the rest (embedding, last norm, head) as part of ``model``.

        Args:
            model: the module whose ``forward`` is called; holds ``causal_lm``.
            mesh: the processes to share the weights: the ``data_parallel`` dimension of the trainer's mesh.

        Raises:
            ConfigError: the model does not say which modules its layers are, or its weights differ between processes.
        """
        layers = decoder_layers(causal_lm)
        check_same_weights(causal_lm)
        mixed = MixedPrecisionPolicy(
            param_dtype=torch_dtype(self.param_dtype, "param_dtype"),
            reduce_dtype=torch_dtype(self.reduce_dtype, "reduce_dtype"),
            cast_forward_inputs=False,
        )
        offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if self.cpu_offload else OffloadPolicy()
        settings = {"mesh": mesh, "mp_policy": mixed, "offload_policy": offload}
        for layer in layers:
            fully_shard(layer, **settings, reshard_after_forward=self.reshard_after_forward)
        # The root's are needed first in the backward pass: freed, they would be gathered again at once.
        fully_shard(model, **settings, reshard_after_forward=False)


def decoder_layers(causal_lm: PreTrainedModel) -> list[nn.Module]:
    """Return the modules that the model class lists as not to be split (``_no_split_modules``).

    Raises:
        ConfigError: there are none.
    """
    names = set(getattr(causal_lm, "_no_split_modules", None) or ())
    layers = [module for module in causal_lm.modules() if type(module).__name__ in names]
    if not layers:
        raise ConfigError(
            f"{type(causal_lm).__name__} has no modules of the names {sorted(names)} (_no_split_modules), by which FSDP cuts "
            "a model; use DDP (trainer.strategy ddp), or another model"
        )
    return layers


def check_same_weights(causal_lm: PreTrainedModel) -> None:
    """Check that all ranks have the same weights: FSDP2 takes each rank's shard from its copy and would mix them silently.

    Raises:
        ConfigError: they differ.
    """
    prints = gather(fingerprint((name, p.detach()) for name, p in causal_lm.named_parameters()))
    if len(set(prints)) > 1:
        raise ConfigError(
            "the processes' models have different weights before they are sharded; give all of them the same model "
            "folder and, for random weights, the same seed_everything"
        )


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Unshard the model within the context: every rank has all weights and may call parts of it alone, e.g. to generate.

    Nothing happens where the model is not sharded. Collective on entry; no other collective must run in between.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not parts:
        yield
        return
    root = parts[0]
    root._get_fsdp_state()._lazy_init()  # else the first layer that is called would take itself for the root
    freed = [part for part in parts if part is not root and _is_freed_after_forward(part)]
    for part in parts:
        part.unshard()
    for part in freed:
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in freed:
            part.set_reshard_after_forward(True, recurse=False)
        for part in parts:
            part.reshard()


def _is_freed_after_forward(part: FSDPModule) -> bool:
    state = part._get_fsdp_state()
    # torch 2.11 has one group, without a list of them.
    groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
    return any(group is not None and group.post_forward_mesh_info is not None for group in groups)


def is_sharded(model: nn.Module) -> bool:
    """Return whether weights of a model are shards."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def full_tensor(tensor: Tensor) -> Tensor:
    """All-gather the full tensor of a shard; return other tensors as they are. Collective for shards."""
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.device.type != tensor.device_mesh.device_type:  # offloaded: collectives need the tensors on the GPU
        tensor = cast(DTensor, tensor.to(tensor.device_mesh.device_type))
    return tensor.full_tensor()


def torch_dtype(name: str | None, setting: str = "dtype") -> torch.dtype | None:
    """Look up a torch dtype by its name; None stays None.

    Raises:
        ConfigError: torch has no dtype of that name.
    """
    dtype = getattr(torch, name, None) if name is not None else None
    if name is not None and not isinstance(dtype, torch.dtype):
        raise ConfigError(f"{setting} must be the name of a torch dtype such as float32 or bfloat16, got {name!r}")
    return dtype


def dtype_name(value: Any, where: str) -> Any:
    """Return the name of a dtype, given by name or as a ``torch.dtype``; None for None."""
    value = str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
    return accepted(value, str | None, where)
