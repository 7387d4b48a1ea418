"""Settings of an OpenAI-compatible endpoint: validation of address and options, and its description without the key."""

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

_RESERVED = (
    "model",
    "messages",
    "temperature",
    "top_p",
    "seed",
    "response_format",
    "stream",
    "n",
    *get_args(LimitName),
)
_EXCERPT = 300
"""Most characters of an endpoint's text that are quoted in a message."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Description of an endpoint for messages; none of the fields contains the key."""

    address: str
    model: str
    key_env: str
    has_key: bool

    def __str__(self) -> str:
        return f"{self.address} (model {self.model!r})"

    def quote(self, text: str) -> str:
        """Return an excerpt of the endpoint's text without the key. Redacted before it is cut: half a key could remain."""
        excerpt = " ".join(redacted_message(text).split())
        return excerpt[:_EXCERPT] + "..." if len(excerpt) > _EXCERPT else excerpt


def checked_url(base_url: str | None) -> tuple[str, str, str]:
    """Validate a base URL; return the URL, its host, and the part that identifies the endpoint (host, port and path).

    Raises:
        ConfigError: it is missing or invalid. The message quotes no part that may contain a password.
    """
    source = "base_url" if base_url is not None else "OPENAI_BASE_URL"
    url = (base_url if base_url is not None else os.environ.get("OPENAI_BASE_URL", "")).strip().rstrip("/")
    if not url:
        raise ConfigError(
            "OpenAIChat needs base_url, the address that the solutions are sent to, such as http://127.0.0.1:8000/v1, or "
            "the environment variable OPENAI_BASE_URL; got neither, and there is no default, so that no data are sent unasked"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"OpenAIChat: {source} is not a URL; expected one like http://127.0.0.1:8000/v1") from None
    if "@" in url or parts.query or parts.fragment:
        raise ConfigError(
            f"OpenAIChat: {source} must not contain a user, password, query or fragment (host {host!r}): addresses are logged "
            "and stored; put the key into the environment variable that api_key_env names"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"OpenAIChat: {source} must look like http://127.0.0.1:8000/v1 or https://host/v1, got {url!r}"
        )
    return url, host, f"{host}{f':{port}' if port else ''}{parts.path}"


def checked_extra(extra: dict[str, Any] | None) -> dict[str, Any]:
    """Validate ``extra_body`` and return it as plain JSON values.

    Raises:
        ConfigError: it sets a reserved option, is not JSON, or contains the key.
    """
    extra = extra or {}
    if taken := sorted(set(extra) & set(_RESERVED)):
        raise ConfigError(f"OpenAIChat: extra_body must not set {', '.join(taken)}, which the client or the judge sets")
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
            "OpenAIChat: extra_body contains the key; it is stored with the replies, so leave the key out of it"
        )
    return json.loads(written)
