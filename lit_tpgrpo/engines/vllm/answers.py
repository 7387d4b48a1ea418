"""Parses the response of a rollout server to a prompt."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lit_tpgrpo.engines.base import Completion
from lit_tpgrpo.engines.vllm.client import INITIAL_VERSION, ServerClient, ServerLostError, ServerRefusedError
from lit_tpgrpo.engines.vllm.sampling import to_completion
from lit_tpgrpo.errors import ConfigError, EngineError


def parse_completions(
    client: ServerClient, answer: Any, version: str, end_ids: Collection[int] | None = None
) -> list[Completion]:
    """Return the completions of a prompt, in order.

    Args:
        client: client of the server, for messages.
        answer: JSON response of ``/inference/v1/generate``.
        version: the version of the weights that must have sampled them.
        end_ids: see ``to_completion``.

    Raises:
        ServerLostError: the server aborted the request (it is shutting down), or was restarted since.
        ServerRefusedError: the response contains no completions.
        EngineError: they were sampled with another run's weights.
    """
    where = f"the vLLM server {client.base_url}"
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        versions = {span["version"] for choice in choices for span in choice.get("weight_versions") or []}
        aborted = [c["finish_reason"] for c in choices if c["finish_reason"] not in ("stop", "length")]
        completions = [
            to_completion(
                c["token_ids"], [entry["logprob"] for entry in c["logprobs"]["content"]], c["finish_reason"], end_ids
            )
            for c in choices
            if not aborted
        ]
    except (KeyError, TypeError, AttributeError, RuntimeError, ConfigError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ServerRefusedError(f"{where} answered a prompt without valid completions ({what})", 500) from error
    if aborted:
        raise ServerLostError(f"{where} ended a request with {aborted[0]!r}: it is probably shutting down")
    if INITIAL_VERSION in versions and versions <= {INITIAL_VERSION, version}:
        raise ServerLostError(f"{where} sampled with its initial weights: it was restarted")
    if versions != {version}:
        raise EngineError(
            f"{where} sampled with weights of {sorted(versions)}, expected {version!r}: does another run send weights to it?"
        )
    return completions
