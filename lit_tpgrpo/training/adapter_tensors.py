"""A model's weights as others see them: adapters merged in, or apart from the weights that they adapt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_tpgrpo.pretrained import saved_buffers
from lit_tpgrpo.training.adapters import NAME, is_adapted
from lit_tpgrpo.training.sharding import full_tensor

_BASE = ".base_layer."


def plain_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights under the names that the model has without adapters: merged, not quantised, not sharded.

    Merged weights are float32, whatever the dtype beneath: bfloat16 rounds an adapter's small updates away (of N(0, 1e-4^2) on
    weights N(0, 0.02^2) 32% leave no trace, of N(0, 1e-5^2) 88%). The caller rounds once, if needed. One at a time, so that
    no process ever holds a second model. Collective where the model is sharded. The buffers that belong to the weights
    come last.
    """
    yield from plain_parameters(model)
    yield from _buffers(model)


def plain_parameters(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield ``plain_tensors`` without buffers: the fingerprints in checkpoints are of these."""
    for name, tensor, layer in _weights(model):
        yield name, tensor if layer is None else _merged(tensor, layer)


def base_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights as ``plain_tensors`` does, without the adapters' part. Collective where the model is sharded."""
    for name, tensor, _ in _weights(model):
        yield name, tensor
    yield from _buffers(model)


def adapter_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield each adapted layer's A, (rank, in), and scale * B, (out, rank), in float32, not sharded.

    Their names are ``LAYER.lora_A.weight`` and ``LAYER.lora_B.weight``: W + (scale * B) A are the weights of ``plain_tensors``.
    Collective where the model is sharded.
    """
    for name, module in model.named_modules():
        if is_adapted(module):
            a, b = _factors(module)
            yield f"{name}.lora_A.weight", a
            yield f"{name}.lora_B.weight", b


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor, Any]]:
    """Yield name, weight, and the layer if its weight has an adapter."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        adapted = _BASE in name and name.endswith(".weight")
        layer = model.get_submodule(name.rpartition(_BASE)[0]) if adapted else None
        yield name.replace(_BASE, "."), _dequantized(parameter), layer


def _buffers(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    for name, buffer in saved_buffers(model):
        yield name.replace(_BASE, "."), full_tensor(buffer.detach())


def _dequantized(parameter: Tensor) -> Tensor:
    if type(parameter).__name__ == "Params4bit":
        from peft.utils.integrations import dequantize_bnb_weight

        return cast(Tensor, dequantize_bnb_weight(cast(nn.Parameter, parameter)))
    return full_tensor(parameter.detach())


def _factors(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A and scale * B in float32."""
    a, b = (full_tensor(part[NAME].weight.detach()).float() for part in (layer.lora_A, layer.lora_B))
    return a, layer.scaling[NAME] * b


def _merged(weight: Tensor, layer: Any) -> Tensor:
    """Compute W + scale * B A in float32."""
    a, b = (full_tensor(part[NAME].weight.detach()).float() for part in (layer.lora_A, layer.lora_B))
    return weight.float() + layer.scaling[NAME] * (b @ a)
