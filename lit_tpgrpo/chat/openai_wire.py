"""Parses responses of an OpenAI-compatible endpoint: replies, and failures as ``ChatError``, with keys redacted from both."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.chat.base import ChatError, ChatReply, Fault
from lit_tpgrpo.chat.openai_endpoint import Endpoint
from lit_tpgrpo.errors import first_among
from lit_tpgrpo.redaction import redacted

if TYPE_CHECKING:
    from openai import APIStatusError

_THINK, _THINK_END = "<think>", "</think>"
_MOST_TOKENS = 2**31 - 1
_BY_STATUS = {
    400: Fault.REFUSED,
    408: Fault.TIMEOUT,
    409: Fault.SERVER,
    413: Fault.REFUSED,
    422: Fault.REFUSED,
    425: Fault.SERVER,
    429: Fault.RATE_LIMIT,
}


def fault_of(error: Exception, endpoint: Endpoint) -> ChatError:
    """Convert an exception of the ``openai`` client to a ``ChatError``.

    Every ``Exception`` is converted, including those that the client does not wrap: ``ValueError`` while it encodes a
    request (a lone surrogate in the prompt), ``OSError``, and those of a connection pool that is closed during a request.
    """
    import openai

    from lit_tpgrpo.bounded_http import OversizedAnswerError

    if (oversized := first_among(error, (OversizedAnswerError,))) is not None:
        return ChatError(Fault.OVERSIZED, f"{endpoint}: {oversized}; the rest of it was not read")
    if isinstance(error, openai.APITimeoutError):  # a subclass of APIConnectionError
        return ChatError(Fault.TIMEOUT, f"{endpoint} did not answer in time ({_cause(error, endpoint)})")
    if isinstance(error, openai.APIConnectionError):
        return ChatError(Fault.CONNECTION, f"no complete answer from {endpoint}: {_cause(error, endpoint)}")
    if isinstance(error, openai.APIStatusError):
        return _status_fault(error, endpoint)
    if isinstance(error, openai.APIResponseValidationError):
        return ChatError(Fault.MALFORMED, f"{endpoint} did not return a chat completion: {endpoint.quote(str(error))}")
    what = f"{type(error).__name__}: {endpoint.quote(str(error))}"
    if isinstance(error, ValueError):
        return ChatError(Fault.REFUSED, f"the request to {endpoint} cannot be encoded: {what}")
    return ChatError(Fault.CONNECTION, f"the request to {endpoint} failed: {what}")


def _cause(error: Exception, endpoint: Endpoint) -> str:
    inner = error.__cause__ or error
    return f"{type(inner).__name__}: {endpoint.quote(str(inner))}" if str(inner) else type(inner).__name__


def _status_fault(error: APIStatusError, endpoint: Endpoint) -> ChatError:
    status, headers = error.status_code, error.response.headers
    fault = _BY_STATUS.get(status) or (Fault.SERVER if status >= 500 else Fault.SETUP)
    if error.code == "insufficient_quota":  # sent with 429, but no waiting helps
        fault = Fault.SETUP
    detail = endpoint.quote(_error_text(error.body))
    message = f"{endpoint} answered {status}" + (f": {detail}" if detail else "")
    if fault is Fault.SETUP:
        return ChatError(fault, f"{message}; {_remedy(status, endpoint)}")
    return ChatError(fault, message, retry_after(headers))


def _error_text(body: object) -> str:
    if isinstance(body, Mapping):
        message = body.get("message")
        return message if isinstance(message, str) and message else json.dumps(body, default=str)
    return "" if body is None else str(body)


def _remedy(status: int, endpoint: Endpoint) -> str:
    if status in (401, 403):
        state = (
            f"was taken from {endpoint.key_env}" if endpoint.has_key else f"was not sent: {endpoint.key_env} is not set"
        )
        return f"the key {state}; check that variable, and that the key may use this model at this base_url"
    if 300 <= status < 400:
        return "redirects are not followed, so that prompts are sent nowhere else; set base_url to the final address"
    if status in (402, 429):
        return "the account of the key has no credit left; top it up, or use another endpoint"
    return "check base_url (most end in /v1) and the model's name, which the endpoint lists under base_url + /models"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in ``retry-after-ms`` or ``Retry-After`` (seconds or a date); None without a valid one."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / scale
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None


def read_reply(data: bytes, endpoint: Endpoint, *, thinks: bool, constrained: bool) -> ChatReply:
    """Parse the body of a response with status 200, and redact the keys that this process sends.

    Args:
        data: the body.
        endpoint: for messages.
        thinks: thinking was requested, so the text before ``</think>`` is thinking even without ``<think>``.
        constrained: a JSON reply was requested, so a cut text that does not begin like JSON is thinking.

    Raises:
        ChatError: it is not a chat completion, or one that the endpoint refused or failed to finish.
    """
    choice = _choice(data)
    if isinstance(choice, str):
        detail = endpoint.quote(data.decode("utf-8", "replace"))
        raise ChatError(Fault.MALFORMED, f"{endpoint} answered with {choice}: {detail}")
    message, finish, usage = choice
    content = message.get("content") or ""
    thinking = next((t for k in ("reasoning", "reasoning_content") if isinstance(t := message.get(k), str) and t), "")
    if finish == "content_filter" or (not content and message.get("refusal")):
        detail = endpoint.quote(str(message.get("refusal") or finish))
        raise ChatError(Fault.REFUSED, f"{endpoint} refused to answer: {detail}")
    if finish in ("abort", "error"):
        raise ChatError(Fault.SERVER, f"{endpoint} aborted its answer (finish_reason {finish})")
    cut = finish == "length"
    if not thinking:
        thinking, content = _split(content, thinks, cut and constrained)
    return ChatReply(
        text=redacted(content),
        thinking=redacted(thinking),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        cached_tokens=_count(usage, "prompt_tokens_details", "cached_tokens"),
        thinking_tokens=_count(usage, "completion_tokens_details", "reasoning_tokens"),
        cut=cut,
    )


def _choice(data: bytes) -> tuple[Mapping[str, Any], object, object] | str:
    """Return (message, finish reason, usage) of the first choice, or a description of what is wrong with the body."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return "something that is not JSON" if data.strip() else "an empty body"
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices:
        return "no choices"
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        return "a choice without a message"
    if not isinstance(message.get("content"), str | None):
        return "a message whose content is not text"
    return message, choices[0].get("finish_reason"), body.get("usage")


def _split(text: str, thinks: bool, cut_json: bool) -> tuple[str, str]:
    """Return (thinking, reply) of a text in which the endpoint did not separate the thinking."""
    start = text.lstrip()
    if not thinks and not start.startswith(_THINK):
        return "", text
    if _THINK_END in text:
        thinking, _, reply = start.rpartition(_THINK_END)
        return thinking.removeprefix(_THINK).strip(), reply.lstrip()
    # Some chat templates open the thinking in the prompt, so a cut thought need not begin with <think>.
    if start.startswith(_THINK) or (cut_json and not start.startswith(("{", "[", "```"))):
        return start.removeprefix(_THINK).strip(), ""
    return "", text


def _count(usage: object, *path: str) -> int:
    """Return a token count; 0 if the endpoint reports none or an impossible one."""
    for key in path:
        usage = usage.get(key) if isinstance(usage, Mapping) else None
    return usage if isinstance(usage, int) and not isinstance(usage, bool) and 0 < usage <= _MOST_TOKENS else 0
