"""Build the policy of a module: loading, adapter, gradient checkpointing, shards."""

from __future__ import annotations

from typing import Literal

from torch.distributed.device_mesh import DeviceMesh

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.functional.aggregation import Normalisation
from lit_tpgrpo.pretrained import refuse_rescaled_logits
from lit_tpgrpo.training.adapter_tensors import plain_parameters
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.dropout import turn_off_dropout
from lit_tpgrpo.training.model_source import ModelSource
from lit_tpgrpo.training.policy import PolicyModel
from lit_tpgrpo.training.sharding import Sharding


def build_policy(source: ModelSource, adapter: LoRA | None, gradient_checkpointing: bool) -> tuple[PolicyModel, str]:
    """Load the policy and put the adapter on it.

    Returns:
        The policy in training mode, without dropout, not sharded; the fingerprint of the weights under the adapter, "" without
        one.

    Raises:
        ConfigError: the model rescales its logits, or cannot take the adapter.
    """
    causal_lm = source.build()
    refuse_rescaled_logits(causal_lm, source.name)
    turn_off_dropout(causal_lm)
    if gradient_checkpointing:
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base = ""
    if adapter is not None:
        base = fingerprint(plain_parameters(causal_lm))
        adapter.apply(causal_lm)
    policy = PolicyModel(causal_lm)
    policy.train()
    return policy, base


def shard_over_all_ranks(
    model: PolicyModel, mesh: DeviceMesh | None, world_size: int, sharding: Sharding, quantized: bool
) -> None:
    """Shard a model under ``ModelParallelStrategy``; do nothing without a mesh.

    Raises:
        ConfigError: the mesh is not one data-parallel dimension of all ranks, or the weights are in 4 bits.
    """
    if mesh is None:
        return
    if mesh["tensor_parallel"].size() > 1 or mesh["data_parallel"].size() != world_size:
        raise ConfigError(
            f"the policy is sharded over all processes alone: set the strategy's data_parallel_size to the number of "
            f"processes, {world_size}, and tensor_parallel_size to 1; got "
            f"{mesh['data_parallel'].size()} and {mesh['tensor_parallel'].size()}"
        )
    if quantized:
        raise ConfigError("4-bit weights (quantization 'nf4') cannot be sharded; use DDP, or LoRA on whole weights")
    sharding.apply(model, model.causal_lm, mesh["data_parallel"])


def check_settings(
    quantization: Literal["nf4"] | None,
    adapter: LoRA | None,
    random_init: bool,
    normalisation: Normalisation,
    norm_length: int | None,
    tokens_per_microbatch: int,
) -> None:
    """Refuse settings of ``TPGRPOModule`` that contradict each other.

    Raises:
        ConfigError: names the settings.
    """
    if quantization is not None and (adapter is None or random_init):
        raise ConfigError(
            "quantization 'nf4' needs a model.adapter, for 4-bit weights do not train, and weights of a checkpoint, not "
            "random_init"
        )
    if (normalisation == "constant") != (norm_length is not None):
        raise ConfigError(
            f"norm_length belongs to normalisation 'constant' and is needed there; got {normalisation!r} with "
            f"norm_length {norm_length}"
        )
    if tokens_per_microbatch < 1:
        raise ConfigError(f"tokens_per_microbatch must be at least 1, got {tokens_per_microbatch}")
