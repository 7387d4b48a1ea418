"""Build an optimizer and check that it can work on the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_tpgrpo.errors import ConfigError


def build_optimizer(make: Callable[..., Optimizer], policy: nn.Module) -> Optimizer:
    """Build an optimizer of the policy's trainable parameters, check it, and warn where weights are too coarse for it.

    Raises:
        ConfigError: it cannot work on them.
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = make(iter(trained))
    check_optimizer(optimizer, trained)
    warn_of_coarse_weights(optimizer, trained)
    return optimizer


def settings_of_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each parameter group, without its parameters; a rate that is a tensor is copied."""
    return [
        {k: v.clone() if isinstance(v, Tensor) else v for k, v in group.items() if k != "params"}
        for group in optimizer.param_groups
    ]


def check_optimizer(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Check that the optimizer can work on these parameters.

    Raises:
        ConfigError: one of bitsandbytes with sharded parameters, which it takes for unsharded ones; or Adam's epsilon is 0 in
            float16, so that weights without a gradient become 0 / 0.
    """
    half = any(p.dtype == torch.float16 for p in parameters)
    if half and (epsilon := optimizer.defaults.get("eps")) and not torch.tensor(epsilon, dtype=torch.float16):
        raise ConfigError(
            f"{type(optimizer).__name__}'s eps {epsilon} is 0 in float16: weights would become nan at the first step; leave "
            "model.dtype out and set trainer.precision to bf16-mixed or 16-mixed"
        )
    foreign = type(optimizer).__module__.startswith("bitsandbytes")
    if foreign and any(isinstance(p, DTensor) for p in parameters):
        raise ConfigError(
            f"{type(optimizer).__name__} of bitsandbytes cannot work on parameters that FSDP shards; use "
            "torchao.optim.AdamW8bit, which can, or torch.optim.AdamW"
        )


def unchanged_share(parameters: Sequence[Tensor], update: float) -> float:
    """Return the share of elements w with fl(w - update) = w: an update of that size is lost in the rounding of their dtype.

    Of the local shards, where parameters are sharded. A bfloat16 weight w has a spacing of at least |w| / 256.
    """
    local = [(p.to_local() if isinstance(p, DTensor) else p).detach() for p in parameters]
    lost = sum(int(((w - update) == w).sum()) for w in local)
    return lost / max(1, sum(w.numel() for w in local))


def warn_of_coarse_weights(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Warn where weights of 16 bits are trained by an optimizer that adds its updates to them and rounds to nearest.

    torchao's optimizers with ``bf16_stochastic_round`` are exempt.
    """
    coarse = [p for p in parameters if p.dtype in (torch.bfloat16, torch.float16)]
    if not coarse or getattr(optimizer, "bf16_stochastic_round", False):
        return
    dtype, name = str(coarse[0].dtype).removeprefix("torch."), type(optimizer).__name__
    rate = optimizer.defaults.get("lr")  # None where the optimizer sets its own, as transformers' Adafactor does
    if rate is None:
        lost = f"the weights that train are {dtype}, and {name} loses updates that are smaller than their rounding"
    else:
        lost = (
            f"the weights that train are {dtype}, and {name} at a learning rate of {float(rate):.1e} moves a weight by about "
            f"that much a step: {unchanged_share(coarse, float(rate)):.1%} of them would round back to what they were"
        )
    rank_zero_warn(
        f"{lost}. Leave model.dtype out for float32 weights and set trainer.precision to bf16-mixed to compute in bfloat16, or "
        "train an adapter (model.adapter)"
    )
