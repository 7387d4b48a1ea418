"""The module's part of a checkpoint: random states of the ranks, and the adapter with its weights alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from lit_tpgrpo.distributed import gather
from lit_tpgrpo.training.adapters import ADAPTER, LoRA, adapter_state, check_adapter_state, check_base
from lit_tpgrpo.training.random_state import RANDOM_STATES, random_state


def add_module_state(checkpoint: dict[str, Any], policy: nn.Module | None, adapter: LoRA | None, base: str) -> None:
    """Add the random states and the adapter to a checkpoint that is being saved. Collective.

    Args:
        checkpoint: changed in place.
        policy: whose weights ``checkpoint`` holds.
        adapter: of the policy; with one, only its weights are kept.
        base: fingerprint of the weights under the adapter.
    """
    checkpoint[RANDOM_STATES] = gather(random_state())
    if adapter is not None:
        checkpoint[ADAPTER] = asdict(adapter) | {"base": base}
        # Shards are loaded by all their names, and so are the weights that Lightning's WeightAveraging keeps.
        if not isinstance(policy, FSDPModule) and "averaging_state" not in checkpoint:
            checkpoint["state_dict"] = adapter_state(checkpoint["state_dict"])


def check_module_state(
    checkpoint: dict[str, Any], module: nn.Module, policy: nn.Module | None, adapter: LoRA | None, base: str
) -> bool:
    """Check that a checkpoint's adapter fits the module.

    Returns:
        Whether the checkpoint holds all weights; if not, the base weights are those of the original model.

    Raises:
        ConfigError: the checkpoint is of another adapter, or of other base weights.
    """
    check_base(checkpoint.get(ADAPTER), adapter, base)
    if adapter is None or isinstance(policy, FSDPModule):
        return True
    check_adapter_state(module.state_dict(), checkpoint["state_dict"])
    return False
