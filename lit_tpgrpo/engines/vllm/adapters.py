"""The policy's adapter inside a vLLM worker: taken from memory, as it arrives with the weights, not from files.

vLLM forgets its adapters after each update of weights, and reads one again when a request names it. ``PolicyLoRAManager``
then takes the policy's from what was received last. Importing this module makes vLLM's workers use it.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.utils import parse_fine_tuned_lora_name
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.models.utils import is_pp_missing_parameter
from vllm.v1.worker import lora_model_runner_mixin

from lit_tpgrpo.engines.vllm.weight_forms import ADAPTER, ADAPTER_ID

_PARTS = (".lora_A.weight", ".lora_B.weight")


class PolicyLoRAManager(LRUCacheWorkerLoRAManager):
    """vLLM's manager of adapters, which has the one named ``policy`` in memory; until one arrives it is zero."""

    def _load_adapter(self, lora_request: Any) -> LoRAModel:
        if lora_request.lora_name != ADAPTER:
            return super()._load_adapter(lora_request)
        manager: Any = self._adapter_manager
        if not (received := getattr(manager, "received", {})):
            return manager.create_dummy_lora(lora_request.lora_int_id, 1, self.embedding_modules)
        return _lora_model(manager, lora_request.lora_int_id, received)


lora_model_runner_mixin.LRUCacheWorkerLoRAManager = PolicyLoRAManager


def is_adapter(name: str) -> bool:
    """Return whether a tensor is part of an adapter, by its name."""
    return name.endswith(_PARTS)


def set_adapter(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace the policy's adapter in a worker; without tensors nothing is adapted any more.

    Args:
        model: the module of vLLM.
        tensors: ``LAYER.lora_A.weight`` (rank, in) and ``LAYER.lora_B.weight`` (out, rank) of each layer, in host memory.

    Raises:
        RuntimeError: vLLM was started without adapters or for a lower rank, or would leave out a part of this one.
    """
    manager: Any = getattr(model, "lora_manager", None)
    if manager is None:
        if tensors:
            raise RuntimeError("an adapter arrived, and this vLLM was started without adapters")
        return
    manager.remove_all_adapters()
    manager.received = {}
    if not tensors:
        return
    _check(manager, tensors)
    adapter = _lora_model(manager, ADAPTER_ID, tensors)
    # Now, so that what does not fit is an error of the update and not of the next request.
    manager.add_adapter(adapter)
    manager.activate_adapter(adapter.id)
    manager.received = dict(tensors)


def _check(manager: Any, tensors: Mapping[str, Tensor]) -> None:
    """Check that vLLM uses all of the adapter: by itself it passes over layers that it does not know.

    Raises:
        RuntimeError: it does not.
    """
    mapper = _mapper(manager)
    layers = {parse_fine_tuned_lora_name(name, mapper)[0] for name in tensors}
    known = {*manager.modules, *(part for parts in manager.packed_modules.values() for part in parts)}
    missing = [name for name in layers - known if not is_pp_missing_parameter(f"{name}.", manager.model)]
    if missing:
        raise RuntimeError(f"vLLM adapts no layer {min(missing)} (one of {len(missing)}); merge the adapter instead")
    stems = [{name.removesuffix(part) for name in tensors if name.endswith(part)} for part in _PARTS]
    if halves := stems[0] ^ stems[1]:
        raise RuntimeError(f"the adapter of {min(halves)} is incomplete: A or B is missing (of {len(halves)} layers)")
    if (rank := _rank(tensors)) > (limit := manager.lora_config.max_lora_rank):
        raise RuntimeError(f"the adapter has rank {rank}, and this vLLM was started for adapters of at most {limit}")


def _lora_model(manager: Any, number: int, tensors: Mapping[str, Tensor]) -> LoRAModel:
    rank = _rank(tensors)
    return LoRAModel.from_lora_tensors(
        number,
        dict(tensors),
        PEFTHelper(r=rank, lora_alpha=rank, target_modules=[]),  # a scale of 1: the trainer's is within B
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=_mapper(manager),
        skip_prefixes=getattr(manager.model, "lora_skip_prefixes", None),
    )


def _rank(tensors: Mapping[str, Tensor]) -> int:
    return max((tensor.shape[0] for name, tensor in tensors.items() if name.endswith(_PARTS[0])), default=1)


def _mapper(manager: Any) -> Any:
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    return mapper.get_rename_mapper() if mapper is not None else None
