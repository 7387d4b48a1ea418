"""Conversion of sampling parameters to vLLM's, and of vLLM's outputs to ``Completion``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from lit_tpgrpo.engines.base import Completion, SamplingParams
from lit_tpgrpo.errors import EngineError
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.token_arrays import token_floats, token_ints

LOGPROBS_MODE = "processed_logprobs"
"""vLLM's log-probs *after* the temperature: those of the distribution that is sampled from.

The default, ``raw_logprobs``, are those at temperature 1. With ``top_p`` or ``top_k`` the processed ones are those of the
truncated distribution.
"""

STRUCTURED_OUTPUTS: dict[str, Any] = {"backend": "guidance", "disable_any_whitespace": True}
"""llguidance, as in the HF engine, without free white space: a model could generate blanks without end."""


def request_settings(params: SamplingParams, n: int, seed: int, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of ``vllm.SamplingParams`` as plain values. A greedy request has n = 1, see ``repeat_greedy``."""
    settings: dict[str, Any] = {
        "n": n if params.temperature > 0 else 1,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "max_tokens": params.max_new_tokens,
        "stop_token_ids": list(stop_ids),
        "logprobs": 0,  # only that of the sampled token
        "seed": seed,
        "detokenize": False,
    }
    if params.stop:
        settings |= {"stop": list(params.stop), "detokenize": True, "skip_special_tokens": False}
    if params.json_schema is not None:
        settings["structured_outputs"] = {"json": params.json_schema}
    return settings


def repeat_greedy(completions: Sequence[Completion], n: int) -> tuple[Completion, ...]:
    """Return n completions: vLLM refuses n > 1 greedy samples, which are all equal, so a single one is repeated n times.

    Raises:
        EngineError: the number of completions is neither ``n`` nor one.
    """
    if len(completions) not in (1, n):
        raise EngineError(f"vLLM returned {len(completions)} samples of a prompt, expected {n}")
    return tuple(completions) if len(completions) == n else tuple(completions[0] for _ in range(n))


def to_completion(
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    finish_reason: str | None,
    end_ids: Collection[int] | None = None,
) -> Completion:
    """Convert a finished sample of vLLM.

    Args:
        token_ids: (T,).
        logprobs: (T,), of each.
        finish_reason: ``length``, or ``stop``: at an end token or a stop string.
        end_ids: the end tokens, which tell the two apart; None if no stop string was requested.

    Raises:
        RuntimeError: vLLM did not finish the sample (``abort``, ``error``).
    """
    if finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a request with {finish_reason!r}; expected 'stop' or 'length'")
    ended = StopReason.EOS if end_ids is None or token_ids[-1] in end_ids else StopReason.STOP_STRING
    stop = ended if finish_reason == "stop" else StopReason.LENGTH
    if len(token_ids) != len(logprobs):
        raise RuntimeError(f"vLLM returned {len(token_ids)} tokens with {len(logprobs)} log-probs")
    return Completion(token_ints(token_ids, "vLLM's tokens"), token_floats(logprobs, "vLLM's log-probs"), stop)
