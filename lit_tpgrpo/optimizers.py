"""Optimizers by name, checked against what they can work on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_tpgrpo.errors import ConfigError


def check_optimizer(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Raises:
    ConfigError: one of bitsandbytes with sharded parameters, which it takes for whole ones.
    """
    foreign = type(optimizer).__module__.startswith("bitsandbytes")
    if foreign and any(isinstance(p, DTensor) for p in parameters):
        raise ConfigError(
            f"{type(optimizer).__name__} of bitsandbytes cannot work on parameters that FSDP shards; use "
            "torchao.optim.AdamW8bit, which can, or torch.optim.AdamW"
        )
