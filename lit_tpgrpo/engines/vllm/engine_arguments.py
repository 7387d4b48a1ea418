"""Arguments of vLLM for an engine in the training process, and the folder with the policy's configuration."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

from torch import nn

from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.engines.vllm.environment import UNCHUNKED_PREFILL
from lit_tpgrpo.engines.vllm.sampling import LOGPROBS_MODE, STRUCTURED_OUTPUTS
from lit_tpgrpo.engines.vllm.weight_forms import max_lora_rank
from lit_tpgrpo.errors import ConfigError

if TYPE_CHECKING:
    from lit_tpgrpo.engines.vllm.engine import VLLMEngine

log = logging.getLogger(__name__)


def engine_arguments(engine: VLLMEngine, policy: Policy, rank: int, cpu: bool, folder: str) -> dict[str, Any]:
    """Write configuration and tokenizer to a folder; return the arguments of ``vllm.EngineArgs``, without ``engine.options``.

    Args:
        engine: whose settings they are.
        policy: its model and tokenizer.
        rank: of the policy's separate adapter, 0 without one.
        cpu: whether vLLM runs on a CPU.
        folder: where vLLM reads the model's configuration.

    Raises:
        ConfigError: vLLM cannot take the adapter.
    """
    config = copy.deepcopy(policy.policy_model.config)
    config.architectures = config.architectures or [_architecture(policy.policy_model)]
    config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    gib = engine.kv_cache_gib if engine.kv_cache_gib is not None else (1.0 if cpu else None)
    arguments: dict[str, Any] = {
        "model": folder,
        "load_format": "dummy",
        "dtype": dtype_name(engine.dtype, policy, rank, cpu),
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "kv_cache_memory_bytes": int(gib * 2**30) if gib is not None else None,
        "enable_prefix_caching": engine.prefix_caching,
        "enforce_eager": cpu if engine.enforce_eager is None else engine.enforce_eager,
        "enable_sleep_mode": not cpu and engine.sleep_level > 0,
        "logprobs_mode": LOGPROBS_MODE,
        "structured_outputs_config": STRUCTURED_OUTPUTS,
        "generation_config": "vllm",  # a checkpoint's repetition penalty or top_k would bias the samples
        "disable_log_stats": True,
    }
    if cpu:
        arguments |= UNCHUNKED_PREFILL
    if rank:
        import lit_tpgrpo.engines.vllm.adapters  # noqa: F401  vLLM's workers take the adapter from memory

        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": max_lora_rank(rank)}
    return arguments


def dtype_name(dtype: str, policy: Policy, rank: int, cpu: bool) -> str:
    """Return the name of vLLM's dtype; warn if it rounds the updates of a merged adapter away.

    Args:
        dtype: as configured; ``auto`` is the policy's compute dtype.
        policy: the policy.
        rank: of its separate adapter, 0 without one.
        cpu: whether vLLM runs on a CPU.

    Raises:
        ConfigError: vLLM has no kernels for a separate adapter in it.
    """
    compute_dtype = getattr(policy, "compute_dtype", policy.policy_model.dtype)
    name = str(compute_dtype).removeprefix("torch.") if dtype == "auto" else dtype
    if rank and name == "float32" and not cpu:
        raise ConfigError(
            "vLLM on a GPU takes a separate adapter in 16 bits only, and data.engine.dtype is float32; set it to bfloat16, or "
            "data.engine.adapter to merged"
        )
    if (
        not rank
        and name != "float32"
        and any(".lora_" in parameter for parameter, _ in policy.policy_model.named_parameters())
    ):
        log.warning(
            "the adapter is merged into vLLM's weights, and %s rounds small updates away (a third of those of size 1e-4, "
            "nine in ten of size 1e-5): set data.engine.adapter to separate or data.engine.dtype to float32, or watch "
            "mismatch/kl",
            name,
        )
    return name


def _architecture(model: nn.Module) -> str:
    """Return the name of the model class that vLLM looks up, not of the subclass that FSDP derives from it."""
    return next(c.__name__ for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))
