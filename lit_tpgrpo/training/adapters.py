"""LoRA adapters through peft, on whole or 4-bit weights: which train, and what checkpoints hold of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.seeds import derived_seed

ADAPTER = "adapter"
"""Key of a checkpoint: the adapter's settings and the fingerprint of the weights it was trained on."""
NAME = "default"
"""Name that peft gives to the one adapter of a layer."""


@checked_arguments()
@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (https://arxiv.org/abs/2106.09685): W + alpha / rank * B A, of which only A and B train.

    Without dropout: the policy that samples and the one that trains would differ.

    Args:
        rank: of A and B.
        alpha: the adapter's scale is alpha / rank.
        target_modules: names of the linear layers that get one; ``all-linear`` is all but the head.

    Raises:
        ConfigError: rank or alpha is not positive.
    """

    rank: int = 16
    alpha: float = 32.0
    target_modules: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ConfigError(f"LoRA needs a rank of at least 1 and a positive alpha, got {self.rank} and {self.alpha}")

    def apply(self, model: PreTrainedModel) -> None:
        """Put adapters into the model's layers, in place; everything else is frozen. B starts at 0: nothing changes.

        Raises:
            ConfigError: no layer has such a name, or the head or the embedding has: log-probs are computed from the head's
                own weight, which the embedding may share.
        """
        # Imported when used: peft imports bitsandbytes, which prints a message on every machine without a GPU.
        from peft import LoraConfig, inject_adapter_in_model

        prepare_four_bit(model)
        config = LoraConfig(r=self.rank, lora_alpha=cast(int, self.alpha), target_modules=self.target_modules)
        try:
            # A is random: the same in every process, whatever was drawn before.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(os.environ.get("PL_GLOBAL_SEED", 0), "lora"))
                inject_adapter_in_model(config, model, NAME)
        except ValueError as error:
            raise ConfigError(
                f"LoRA cannot be put into {self.target_modules}: {' '.join(str(error).split())}"
            ) from error
        for parameter in model.parameters():
            if parameter.requires_grad:  # bfloat16 is too coarse for most updates
                parameter.data = parameter.data.float()
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        if any(is_adapted(end) for end in ends):
            raise ConfigError(
                f"target_modules {self.target_modules} of LoRA hold the embedding or the head, which cannot be adapted; leave "
                "them out, or use all-linear"
            )


def four_bit() -> BitsAndBytesConfig:
    """Return the settings of QLoRA's weights (https://arxiv.org/abs/2305.14314): 4-bit NormalFloat, double quantisation.

    ``prepare_four_bit`` sets the dtype that they compute in.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )


def prepare_four_bit(model: PreTrainedModel) -> None:
    """Prepare 4-bit layers for alternating training and sampling; does nothing without such layers.

    - They compute in the dtype of the weights that were quantised, or the first pass turns their biases into another.
    - On some CPUs bitsandbytes 0.50 packs them for bfloat16 kernels at the first pass in evaluation mode, after which they
      round otherwise and a backward pass fails: they are left as they are.
    - The config no longer mentions it: engines and exports get unquantised weights.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
        layer.compute_dtype = layer.weight.quant_state.dtype
    if layers and hasattr(model.config, "quantization_config"):
        object.__delattr__(model.config, "quantization_config")


def adapter_layers(model: nn.Module) -> list[Any]:
    """Return the layers that have an adapter."""
    return [module for module in model.modules() if is_adapted(module)]


def is_adapted(module: Any) -> bool:
    """Return whether a layer has an adapter."""
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def adapter_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters' part of a state dict; base weights are reloaded from the original model."""
    return {name: tensor for name, tensor in state.items() if ".lora_" in name}


def check_adapter_state(state: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint holds exactly the adapters of this model.

    Raises:
        ConfigError: names differ.
    """
    if different := adapter_state(state).keys() ^ adapter_state(saved).keys():
        raise ConfigError(
            f"the checkpoint's adapters are not this model's: {len(different)} tensors differ by name, such as {min(different)}"
        )


def check_base(saved: Mapping[str, Any] | None, adapter: LoRA | None, base: str) -> None:
    """Check that a checkpoint's adapter and base weights are those of the run.

    Raises:
        ConfigError: only one of checkpoint and run has an adapter, or they differ in shape or in the base weights.
    """
    if adapter is None:
        if saved is not None:
            raise ConfigError(
                "the checkpoint holds an adapter alone, and this run has none; set model.adapter as it was, or export the "
                "checkpoint (python -m lit_tpgrpo.export) and take that model"
            )
        return
    if saved is None:
        raise ConfigError(
            "the checkpoint was made without a model.adapter, and this run has one; leave it out, or export the checkpoint "
            "(python -m lit_tpgrpo.export) and adapt that model"
        )
    settings = {"rank": adapter.rank, "alpha": adapter.alpha, "target_modules": adapter.target_modules}
    if changed := [name for name, value in settings.items() if saved[name] != value]:
        raise ConfigError(
            f"{', '.join(changed)} of model.adapter changed since the checkpoint: "
            f"{[saved[name] for name in changed]} then, {[settings[name] for name in changed]} now"
        )
    if saved["base"] != base:
        raise ConfigError(
            "the checkpoint's adapter was trained on other weights than those of model.model; give the model that it was "
            "trained on, with the same dtype and quantization"
        )


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Disable all adapters within the context."""
    layers = adapter_layers(model)
    # Not enable_adapters: it also takes requires_grad away, which the optimizer and sharding rely on.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
