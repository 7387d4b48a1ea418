"""What an OpenAI-compatible endpoint is: address, key and options, checked, and its name in messages, without the key."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.redaction import redacted, redacted_message

ResponseFormat = Literal["json_schema", "json_object", "none"]
Thinking = Literal["off", "native", "two_turns"]
LimitName = Literal["max_tokens", "max_completion_tokens"]

_OURS = ("model", "messages", "temperature", "top_p", "seed", "response_format", "stream", "n", *get_args(LimitName))
_EXCERPT = 300
"""Characters of an endpoint's own words that go into a message."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, for messages; the key itself is in none of these."""

    address: str
    model: str
    key_env: str
    has_key: bool

    def __str__(self) -> str:
        return f"{self.address} (model {self.model!r})"

    def quote(self, text: str) -> str:
        """An endpoint's own words, short and without the key. Cleaned first: a cut could leave half of a key."""
        words = " ".join(redacted_message(text).split())
        return words[:_EXCERPT] + "..." if len(words) > _EXCERPT else words


def checked_url(base_url: str | None) -> tuple[str, str, str]:
    """The URL, its host, and the part of it that identifies the endpoint. Messages quote no part that can hold a password."""
    source = "base_url" if base_url is not None else "OPENAI_BASE_URL"
    url = (base_url if base_url is not None else os.environ.get("OPENAI_BASE_URL", "")).strip().rstrip("/")
    if not url:
        raise ConfigError(
            "OpenAIChat needs base_url, the address that the solutions are sent to, such as http://127.0.0.1:8000/v1, or "
            "the environment variable OPENAI_BASE_URL; got neither, and there is no default so that no data leave unasked"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"OpenAIChat: {source} is no URL; expected one like http://127.0.0.1:8000/v1") from None
    if "@" in url or parts.query or parts.fragment:
        raise ConfigError(
            f"OpenAIChat: {source} must hold no user, password, query or fragment (host {host!r}): addresses are logged and "
            "stored; put the key into the environment variable that api_key_env names"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"OpenAIChat: {source} must look like http://127.0.0.1:8000/v1 or https://host/v1, got {url!r}"
        )
    return url, host, f"{host}{f':{port}' if port else ''}{parts.path}"


def checked_extra(extra: dict[str, Any] | None) -> dict[str, Any]:
    extra = extra or {}
    if taken := sorted(set(extra) & set(_OURS)):
        raise ConfigError(f"OpenAIChat: extra_body may not hold {', '.join(taken)}, which the engine or the judge sets")
    template = extra.get("chat_template_kwargs")
    if not isinstance(template, dict | None):
        raise ConfigError(f"OpenAIChat: extra_body.chat_template_kwargs must be a mapping, got {template!r}")
    try:
        written = json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"OpenAIChat: extra_body must be plain JSON ({error}); use numbers, texts, lists, mappings"
        ) from None
    if redacted(written) != written:
        raise ConfigError(
            "OpenAIChat: extra_body holds the key; it is stored with the replies, so leave the key out of it"
        )
    return json.loads(written)
