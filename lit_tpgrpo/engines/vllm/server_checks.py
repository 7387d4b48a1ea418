"""What a rollout server says of itself: its model, and whether its settings fit training."""

from __future__ import annotations

from lit_tpgrpo.engines.vllm.client import ServerClient
from lit_tpgrpo.engines.vllm.environment import EXTENSION
from lit_tpgrpo.engines.vllm.sampling import LOGPROBS_MODE
from lit_tpgrpo.engines.vllm.weight_forms import ADAPTER
from lit_tpgrpo.errors import EngineError


def served_model(client: ServerClient) -> tuple[str, int]:
    """Return the name of the served model, and its most tokens of prompt and completion together."""
    model = client.field(client.ask("GET", "v1/models"), "data", 0)
    return str(client.field(model, "id")), int(client.field(model, "max_model_len"))


def check_adapters(client: ServerClient, rank: int) -> None:
    """Check that a server takes the policy's adapter.

    Raises:
        EngineError: it was started without adapters, or for smaller ones.
    """
    config = client.field(client.ask("GET", "server_info", params={"config_format": "json"}), "vllm_config")
    models = client.field(client.ask("GET", "v1/models"), "data")
    limit = int((config.get("lora_config") or {}).get("max_lora_rank") or 0)
    if limit < rank or ADAPTER not in [client.field(model, "id") for model in models]:
        raise EngineError(
            f"the vLLM server {client.base_url} takes no adapters of rank {rank}; start it with `python -m lit_tpgrpo.serve "
            f"MODEL --adapter-rank {rank}`, or set the engine's adapter to merged"
        )


def check_server(client: ServerClient, backend: str) -> None:
    """Check the settings of a server.

    Raises:
        EngineError: it answers without a key, returns other log-probs, does not check updates, or uses another transfer.
    """
    client.check_requires_key()
    config = client.field(client.ask("GET", "server_info", params={"config_format": "json"}), "vllm_config")
    mode = client.field(config, "model_config", "logprobs_mode")
    if mode != LOGPROBS_MODE:
        raise EngineError(
            f"the vLLM server {client.base_url} returns {mode}, which are not of the distribution that is sampled from, unless "
            f"the temperature is 1; start it with `python -m lit_tpgrpo.serve`, or --logprobs-mode {LOGPROBS_MODE}"
        )
    if client.field(config, "parallel_config", "worker_extension_cls") != EXTENSION:
        raise EngineError(
            f"the vLLM server {client.base_url} does not check that weight updates are complete; start it with "
            f"`python -m lit_tpgrpo.serve`, or --worker-extension-cls {EXTENSION}"
        )
    offered = (config.get("weight_transfer_config") or {}).get("backend")
    if offered != backend:
        raise EngineError(
            f"the vLLM server {client.base_url} takes weights by {offered}, and the engine would send them by {backend}; "
            f"start it with `python -m lit_tpgrpo.serve MODEL --transfer {backend}`, or set the engine's transfer"
        )
