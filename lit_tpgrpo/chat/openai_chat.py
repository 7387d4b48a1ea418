"""Chat client for any OpenAI-compatible endpoint: a local vLLM or SGLang server, a gateway, a provider."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.api_keys import check_key_env, read_key, register_custom_headers
from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.chat.base import ChatError, ChatReply, ChatRequest, Fault
from lit_tpgrpo.chat.openai_endpoint import (
    Endpoint,
    LimitName,
    ResponseFormat,
    Thinking,
    checked_extra,
    checked_url,
)
from lit_tpgrpo.chat.openai_wire import fault_of, read_reply
from lit_tpgrpo.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

STOP_THINKING = "Stop thinking here. Give the verdict now, in the form that was asked for."
THINK_FIRST = "\n\nThink it over first, in plain text and without the verdict: you will be asked for it afterwards."
_NO_KEY = "no-key-was-set"
# Shorter than the five seconds of common servers, so that no request uses a connection that the server is closing.
_KEEPALIVE_S = 3.0

Message = dict[str, str]
Body = dict[str, Any]


@checked_arguments()
class OpenAIChat:
    """Chat client on the official ``openai`` package. It never retries; the caller does.

    Prompts and key are sent to ``base_url`` only: there is no default address, and redirects are not followed. The key is
    read from the environment when a session begins, held by the client only, and redacted from all text the endpoint
    returns. A response larger than ``max_answer_bytes`` is aborted while it is received.

    Args:
        model: the name under which the endpoint serves the model.
        base_url: address including ``/v1``, without user, password or query; None reads OPENAI_BASE_URL.
        api_key_env: name of the environment variable with the key: OPENAI_API_KEY, VLLM_API_KEY, or one that the user
            allows in LIT_TPGRPO_API_KEY_ENVS (see ``lit_tpgrpo.api_keys``). If it is not set, a placeholder is sent,
            which local servers accept.
        timeout_s: seconds for a request, including all its turns.
        connect_timeout_s: seconds to establish a connection.
        max_connections: most concurrent requests; further ones wait for a connection, within their timeout.
        max_answer_bytes: most bytes of one response, both compressed and decompressed; thinking of 100,000 tokens is below
            1 MB.
        response_format: how a schema is requested: ``json_schema`` (strict, the reply is constrained to it),
            ``json_object`` (any JSON), ``none`` (by the prompt only, for endpoints without structured output).
        thinking: how a request with ``thinking_tokens`` is sent. ``off``: ignore them. ``native``: the model thinks by
            itself, in the ``reasoning`` or ``reasoning_content`` of the message or before ``</think>``; if it ends before
            the reply begins, a second turn asks for the reply. ``two_turns``: the first turn only thinks, at most
            ``thinking_tokens``, the second replies; this is a hard limit with any endpoint.
        thinking_switch: send ``chat_template_kwargs: {"enable_thinking": ...}`` (vLLM and SGLang with Qwen3).
        limit_name: the parameter that limits the reply's length; newer OpenAI models need ``max_completion_tokens``.
        extra_body: further options of the endpoint, sent with each request and stored with the replies: no secrets.

    Raises:
        ConfigError: a value is invalid, or no address is given.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 600.0,
        connect_timeout_s: float = 10.0,
        max_connections: int = 256,
        max_answer_bytes: int = 4 * 2**20,
        response_format: ResponseFormat = "json_schema",
        thinking: Thinking = "off",
        thinking_switch: bool = False,
        limit_name: LimitName = "max_tokens",
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        for name, text in (("model", model), ("api_key_env", api_key_env)):
            if not text.strip():
                raise ConfigError(f"OpenAIChat: {name} must not be empty; got {text!r}, give its name")
        for name, seconds in (("timeout_s", timeout_s), ("connect_timeout_s", connect_timeout_s)):
            if not 0 < seconds < math.inf:  # written so that nan is refused as well
                raise ConfigError(f"OpenAIChat: {name} must be a positive number of seconds, got {seconds}; try 600")
        if max_connections < 1:
            raise ConfigError(f"OpenAIChat: max_connections must be at least 1, got {max_connections}; try 256")
        if max_answer_bytes < 1024:
            raise ConfigError(
                f"OpenAIChat: max_answer_bytes must be at least 1024, got {max_answer_bytes}; try 4194304"
            )
        self.model = model
        self.base_url, host, self._address = checked_url(base_url)
        self.api_key_env = api_key_env.strip()
        check_key_env(self.api_key_env, host, "OpenAIChat")
        read_key(self.api_key_env)  # registers the key: from now on it is redacted from everything that is written
        self.timeout_s, self.connect_timeout_s = timeout_s, connect_timeout_s
        self.max_connections, self.max_answer_bytes = max_connections, max_answer_bytes
        self.response_format: ResponseFormat = response_format
        self.thinking: Thinking = thinking
        self.thinking_switch = thinking_switch
        self.limit_name: LimitName = limit_name
        self.extra_body = checked_extra(extra_body)
        self._open: tuple[AsyncOpenAI, Endpoint] | None = None

    def __repr__(self) -> str:
        return f"OpenAIChat(model={self.model!r}, base_url={self.base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open client: a connection cannot be copied, and the key must not be."""
        return {**self.__dict__, "_open": None}

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings: the model's name is all that identifies the weights of an endpoint."""
        return self.settings

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model and the options that affect replies; no timeouts, connection limits or keys, and no address.

        Stored replies stay valid if the same model is served from another port or node.
        """
        return {
            "engine": "openai",
            "model": self.model,
            "response_format": self.response_format,
            "thinking": self.thinking,
            "thinking_switch": self.thinking_switch,
            "turns": [] if self.thinking == "off" else [THINK_FIRST, STOP_THINKING],
            "extra_body": self.extra_body,
        }

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Open the client for calls of ``complete``; connections are opened on demand and closed at the end.

        Raises:
            ConfigError: ``openai`` is not installed, or the key cannot be sent in a header.
        """
        if self._open is not None:
            raise RuntimeError("OpenAIChat.session was entered twice: one session serves all requests of a loop")
        self._open = client, _ = self._connect()
        try:
            yield
        finally:
            self._open = None
            await client.close()

    def close(self) -> None:
        """Do nothing: a session closes everything it opened."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Send one request and return its reply.

        Raises:
            ChatError: the request failed.
            RuntimeError: there is no session.
        """
        if self._open is None:
            raise RuntimeError("OpenAIChat.complete was called outside a session: use `async with chat.session()`")
        try:
            # The client's timeouts restart with each byte: a server that sends slowly would never reach them.
            async with asyncio.timeout(self.timeout_s):
                return await self._answer(request, *self._open)
        except TimeoutError:
            pass  # raised below, so that the request is not part of the exception's context
        raise ChatError(Fault.TIMEOUT, f"{self._address} (model {self.model!r}) did not answer in {self.timeout_s:g} s")

    async def _answer(self, request: ChatRequest, client: AsyncOpenAI, endpoint: Endpoint) -> ChatReply:
        async def turn(messages: list[Message], limit: int, schema: bool, thinks: bool) -> ChatReply:
            data = await _send(client, endpoint, self._body(request, messages, limit, schema, thinks))
            constrained = schema and request.schema is not None
            return read_reply(data, endpoint, thinks=thinks, constrained=constrained)

        user: Message = {"role": "user", "content": request.content}
        if self.thinking == "off" or request.thinking_tokens == 0:
            return await turn([user], request.max_tokens, schema=True, thinks=False)
        if self.thinking == "native":
            first = await turn([user], request.thinking_tokens + request.max_tokens, schema=True, thinks=True)
            if first.text.strip() or not (first.cut or first.thinking):
                return first
        else:
            user["content"] += THINK_FIRST
            first = await turn([user], request.thinking_tokens, schema=False, thinks=True)
        # As plain text: chat templates drop the text before </think> in earlier turns.
        thought = "\n\n".join(t for t in (first.thinking.strip(), first.text.strip()) if t)
        later = [{"role": "assistant", "content": thought}, {"role": "user", "content": STOP_THINKING}]
        messages = [user, *later] if thought else [{"role": "user", "content": request.content}]
        second = await turn(messages, request.max_tokens, schema=True, thinks=False)
        return replace(
            second,
            thinking="\n\n".join(t for t in (thought, second.thinking) if t),
            prompt_tokens=first.prompt_tokens + second.prompt_tokens,
            completion_tokens=first.completion_tokens + second.completion_tokens,
            cached_tokens=first.cached_tokens + second.cached_tokens,
            thinking_tokens=first.completion_tokens + second.thinking_tokens,
        )

    def _body(self, request: ChatRequest, messages: list[Message], limit: int, schema: bool, thinks: bool) -> Body:
        body: Body = {
            "model": self.model,
            "messages": messages,
            self.limit_name: limit,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        if schema and request.schema is not None and self.response_format == "json_schema":
            form = {"name": request.schema_name, "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif schema and request.schema is not None and self.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        extra = dict(self.extra_body)
        template: Body = extra.get("chat_template_kwargs") or {}
        second_turn = self.thinking != "off" and request.thinking_tokens > 0 and not thinks
        if self.thinking_switch or (second_turn and template):
            extra["chat_template_kwargs"] = {**template, "enable_thinking": thinks}
        return {**body, "extra_body": extra}

    def _connect(self) -> tuple[AsyncOpenAI, Endpoint]:
        try:
            import httpx2
            from openai import AsyncOpenAI

            from lit_tpgrpo.bounded_http import BoundedClient
        except ImportError as error:
            raise ConfigError(
                f'OpenAIChat needs the openai package ({error}); install it with pip install "openai>=3.54,<4"'
            ) from error
        key = read_key(self.api_key_env)
        register_custom_headers()
        timeout = httpx2.Timeout(self.timeout_s, connect=self.connect_timeout_s)
        n = self.max_connections
        limits = httpx2.Limits(max_connections=n, max_keepalive_connections=n, keepalive_expiry=_KEEPALIVE_S)
        http = BoundedClient(self.max_answer_bytes, limits=limits, timeout=timeout, follow_redirects=False)
        endpoint = Endpoint(self._address, self.model, self.api_key_env, bool(key))
        return AsyncOpenAI(api_key=key or _NO_KEY, base_url=self.base_url, max_retries=0, http_client=http), endpoint


async def _send(client: AsyncOpenAI, endpoint: Endpoint, body: Body) -> bytes:
    try:
        # Raw: the client would parse any JSON as a completion, and anything else as text.
        answer = await client.chat.completions.with_raw_response.create(**body)
    except Exception as error:
        failure = fault_of(error, endpoint)
    else:
        return answer.http_response.content
    # Outside the except block: the client's error, as context, would hold the request with the key in its headers.
    raise failure
