"""Access control of a rollout server: an API key and an allow-list of routes.

vLLM's own ``--api-key`` protects the routes below ``/v1`` and ``/inference`` only. Routes that pause the server, put it to
sleep, replace its weights or call methods of its workers stay open to every program on the machine and to web pages,
whose ``text/plain`` requests need no CORS permission.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from lit_tpgrpo.errors import ConfigError

KEY_ENV = "VLLM_API_KEY"
"""Environment variable with a server's key. vLLM reads the same variable, for the routes that it protects."""
HOSTS_ENV = "LIT_TPGRPO_SERVE_HOSTS"
"""Environment variable with further host names of a server besides its machine's, separated by commas."""
MIDDLEWARE = "lit_tpgrpo.engines.vllm.guard.AccessMiddleware"
MIN_KEY = 16
"""Fewest characters of a key. Shorter keys could be guessed by brute force."""

HEALTH = "/health"
"""The only route that needs no key: it only reports that the server runs."""
OPEN_ROUTES = frozenset(
    [
        *(("GET", f"/{name}") for name in ("v1/models", "version", "load", "metrics", "metrics/")),
        *(("GET", f"/{name}") for name in ("server_info", "weight_info", "get_world_size")),
        *(("POST", f"/v1/{name}") for name in ("chat/completions", "completions")),
        *(("POST", f"/{name}") for name in ("tokenize", "detokenize")),
        *(("POST", f"/inference/v1/{name}") for name in ("generate", "abort_requests")),
        *(("POST", f"/{name}") for name in ("init_weight_transfer_engine", "shutdown_weight_transfer_engine")),
        *(("POST", f"/{name}") for name in ("start_weight_update", "update_weights", "finish_weight_update")),
        ("POST", "/reset_prefix_cache"),
    ]
)
"""The routes that rollouts and judges use. All others are closed, even with the key: ``/collective_rpc``, which can write
weights to any path and read them from any, ``/sleep``, ``/pause``, adapters by path, profiles, and future routes of vLLM."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AccessMiddleware:
    """ASGI middleware that checks host, origin, key, route and content type before vLLM's own middleware.

    The key and the host names are read from the environment when the server starts.

    Raises:
        ConfigError: there is no valid key.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = checked_key(os.environ.get(KEY_ENV, ""), KEY_ENV).encode()
        named = os.environ.get(HOSTS_ENV, "").lower().split(",")
        self._hosts = {"localhost", socket.gethostname().lower(), *(name for name in named if name)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":  # no open route is a WebSocket
            await send({"type": "websocket.close", "code": 1008})
        elif refusal := self.refusal(scope):
            await _refuse(send, *refusal)
        else:
            await self._app(scope, receive, send)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason if the request is refused, else None. Reasons repeat no content of the request."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            word = name.decode("latin-1").lower()
            if word in headers and word in ("host", "origin", "authorization", "content-type", "content-length"):
                return 400, f"more than one {word} header"
            headers[word] = value.decode("latin-1")
        # DNS rebinding: a page whose name an attacker resolves to this address sends that name as Host. An IP address is safe.
        if not self._is_allowed_host(headers.get("host", "")):
            return (
                403,
                f"this Host is not allowed; if it is this server's, start it with --allowed-hosts (or {HOSTS_ENV})",
            )
        if (origin := headers.get("origin")) is not None and urlsplit_netloc(origin) != headers["host"].lower():
            return 403, "requests from web pages of other origins are refused"
        route = (scope["method"], scope["path"].removeprefix(scope.get("root_path", "")))
        if route == ("GET", HEALTH):
            return None
        if not self._has_key(headers.get("authorization", "")):
            return 401, "this route needs the server's key, as `Authorization: Bearer KEY`"
        if route not in OPEN_ROUTES:
            return 403, "this route is closed; a rollout server opens only the routes that training and judging use"
        kind = headers.get("content-type")
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        if (kind is None and has_body) or (
            kind is not None and kind.split(";")[0].strip().lower() != "application/json"
        ):
            return 415, "the body must be application/json"
        return None

    def _is_allowed_host(self, host: str) -> bool:
        name = _host_name(host)
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    def _has_key(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        # Constant-time comparison: the time must not depend on how many characters are right.
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode("latin-1"), self._key)


def checked_key(key: str, variable: str) -> str:
    """Validate the key of an environment variable and return it without surrounding white space.

    Raises:
        ConfigError: it is missing, too short, or not allowed in a header. The message does not contain it.
    """
    key = key.strip()
    remedy = f'export {variable}=$(python -c "import secrets; print(secrets.token_urlsafe(32))")'
    if not key:
        raise ConfigError(
            f"a rollout server needs a key, because anyone who can reach it could replace its weights, and {variable} is not "
            f"set; set it to the same value for server and training: {remedy}"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"the key in {variable} has characters that are not allowed in a header; set another: {remedy}"
        )
    if len(key) < MIN_KEY:
        raise ConfigError(
            f"the key in {variable} has {len(key)} characters, fewer than {MIN_KEY}; set another: {remedy}"
        )
    return key


def urlsplit_netloc(origin: str) -> str | None:
    """Return host and port of an Origin header; None for ``null`` and invalid URLs."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _host_name(host: str) -> str | None:
    """Return the name in a Host header, in lower case and without the port; None if it is invalid."""
    if any(c in host for c in "/?#@\\ \t"):
        return None
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": reason}).encode()})
