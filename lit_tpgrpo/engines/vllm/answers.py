"""What a rollout server's answer to a prompt means."""

from __future__ import annotations

from typing import Any

from lit_tpgrpo.engines.base import Completion
from lit_tpgrpo.engines.vllm.client import FRESH, ServerClient, ServerLostError, ServerRefusedError
from lit_tpgrpo.engines.vllm.sampling import completion
from lit_tpgrpo.errors import EngineError


def completions_of(client: ServerClient, answer: Any, version: str) -> list[Completion]:
    """A prompt's completions, in order.

    Args:
        client: of the server, for messages.
        answer: of ``/inference/v1/generate``.
        version: of the weights that they must be of.

    Raises:
        ServerLostError: the server gave the request up, as one that ends does, or has started again since.
        ServerRefusedError: there are no completions in it.
        EngineError: they are of another run's weights.
    """
    where = f"the vLLM server {client.base_url}"
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        versions = {span["version"] for choice in choices for span in choice.get("weight_versions") or []}
        given_up = [c["finish_reason"] for c in choices if c["finish_reason"] not in ("stop", "length")]
        read = [
            completion(c["token_ids"], [entry["logprob"] for entry in c["logprobs"]["content"]], c["finish_reason"])
            for c in choices
            if not given_up
        ]
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ServerRefusedError(
            f"{where} answered a prompt with something else than completions ({what})", 500
        ) from error
    if given_up:
        raise ServerLostError(f"{where} ended a request with {given_up[0]!r}, as a server that ends does")
    if FRESH in versions and versions <= {FRESH, version}:
        raise ServerLostError(f"{where} sampled with weights that nobody sent: it was restarted")
    if versions != {version}:
        raise EngineError(
            f"{where} sampled with weights of {sorted(versions)}, and {version!r} was sent: does another run send weights "
            "to it?"
        )
    return read
