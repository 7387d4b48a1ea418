"""Turn a model's dropout off: the policy that samples and the one that is scored and trained must be the same function."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def turn_off_dropout(model: nn.Module) -> None:
    """Set all probabilities of dropout to 0, in the modules alone: the config, which an export writes, keeps them.

    Engines sample in evaluation mode, and training mode is kept for what else hangs on it (gradient checkpointing). Besides
    modules of PyTorch these are the numbers that transformers' attention modules and decoders hold: ``attention_dropout``,
    ``dropout``, ``layerdrop`` and the like. A model that reads them from its config in each pass (Falcon's) keeps them.
    """
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
