"""Our sampling parameters in vLLM's terms, and its outputs in ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_tpgrpo.engines.base import Completion, SamplingParams
from lit_tpgrpo.errors import EngineError
from lit_tpgrpo.records import StopReason

LOGPROBS_MODE = "processed_logprobs"
"""vLLM's log-probs *after* the temperature. The default, ``raw_logprobs``, are those at temperature 1: of another
distribution than the one sampled from. With ``top_p`` or ``top_k`` the processed ones are those of the cut distribution."""

STRUCTURED_OUTPUTS: dict[str, Any] = {"backend": "guidance", "disable_any_whitespace": True}
"""llguidance, as for the HF engine, and no free white space: a model with nothing to say could go on with blanks for ever."""


def request_settings(params: SamplingParams, n: int, seed: int, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of ``vllm.SamplingParams``, in plain values. Greedy requests are asked for once, see ``repeated``."""
    settings: dict[str, Any] = {
        "n": n if params.temperature > 0 else 1,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "max_tokens": params.max_new_tokens,
        "stop_token_ids": list(stop_ids),
        "logprobs": 0,  # of the sampled token alone
        "seed": seed,
        "detokenize": False,
    }
    if params.json_schema is not None:
        settings["structured_outputs"] = {"json": params.json_schema}
    return settings


def repeated(completions: Sequence[Completion], n: int) -> tuple[Completion, ...]:
    """vLLM refuses n > 1 greedy samples of a prompt, for they are all equal: so they are.

    Raises:
        EngineError: there are neither ``n`` nor one.
    """
    if len(completions) not in (1, n):
        raise EngineError(f"vLLM returned {len(completions)} samples of a prompt, and {n} were asked for")
    return tuple(completions) if len(completions) == n else tuple(completions[0] for _ in range(n))


def completion(token_ids: Sequence[int], logprobs: Sequence[float], finish_reason: str | None) -> Completion:
    """A finished sample. vLLM ends with ``stop`` only on an end token (which is then the last id): text to stop at is never
    asked for.

    Raises:
        RuntimeError: vLLM gave it up (``abort``, ``error``).
    """
    if finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a request with {finish_reason!r}; expected 'stop' or 'length'")
    stop = StopReason.EOS if finish_reason == "stop" else StopReason.LENGTH
    if len(token_ids) != len(logprobs):
        raise RuntimeError(f"vLLM returned {len(token_ids)} tokens with {len(logprobs)} log-probs")
    return Completion(tuple(token_ids), tuple(logprobs), stop)
