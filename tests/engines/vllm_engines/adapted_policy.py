"""Policies with a LoRA adapter, as engines see them; they count how often their own weights were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lit_tpgrpo.engines.base import AdapterWeights
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.adapters import LoRA


class AdaptedModule(TPGRPOModule):
    """The module; ``held_back`` is the end of a name that the adapter does not give."""

    policy_version = 3  # pyright: ignore
    held_back = "nothing"
    renamed = ("", "")
    base_passes = 0

    def adapter_weights(self) -> AdapterWeights | None:
        weights = super().adapter_weights()
        return weights and replace(
            weights, base_tensors=partial(self.base, weights), tensors=partial(self.adapter_part, weights)
        )

    def base(self, weights: AdapterWeights) -> Iterator[tuple[str, Tensor]]:
        self.base_passes += 1
        yield from weights.base_tensors()

    def adapter_part(self, weights: AdapterWeights) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights.tensors():
            if not name.endswith(self.held_back):
                yield name.replace(*self.renamed), tensor


def adapted_policy(folder: str, lora: LoRA | None = None) -> AdaptedModule:
    """A policy whose adapter says something."""
    torch.manual_seed(0)
    module = AdaptedModule(folder, adapter=lora or LoRA(4, 8.0))
    module.configure_model()
    module.policy_model.eval()
    train_on(module, 0)
    return module


def train_on(module: AdaptedModule, seed: int) -> None:
    """Another adapter on the same weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.policy_model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.3)
