"""Choose dtypes: of the weights, and of what is computed with them."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from transformers import PreTrainedModel

from lit_tpgrpo.training.sharding import torch_dtype


def weights_dtype(name: str | None, adapted: bool) -> torch.dtype | None:
    """Return the dtype to load weights in, None for the checkpoint's own: those that train are float32 by default.

    Args:
        name: of a torch dtype, ``auto`` for the checkpoint's, None for the default.
        adapted: whether an adapter trains in their place.

    Raises:
        ConfigError: torch has no dtype of that name.
    """
    if name == "auto" or (name is None and adapted):
        return None
    return torch_dtype(name or "float32")


def compute_dtype(model: PreTrainedModel, trainer: L.Trainer, sharded: str | None) -> torch.dtype:
    """Return what the layers compute in: autocast's dtype, the one that FSDP casts them to, or the weights' own.

    Args:
        model: the policy.
        trainer: whose precision counts.
        sharded: ``Sharding.param_dtype``, which counts under ``ModelParallelStrategy`` alone.
    """
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision):
        return torch.float16 if plugin.precision == "16-mixed" else torch.bfloat16
    if trainer.lightning_module.device_mesh is not None and sharded is not None:
        return torch_dtype(sharded) or model.dtype
    return model.dtype
