"""The chat interface through which a generative judge queries its LLM: one request in, one reply out, asynchronously.

Implementations: ``openai_chat`` (any OpenAI-compatible endpoint) and ``local_chat`` (an ``Engine`` in this process).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lit_tpgrpo.engines.base import Engine, Policy


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One user turn, ``shared + question``: ``shared`` is the prefix that many requests have in common.

    A prefix cache then serves all questions about one text.
    """

    shared: str
    question: str
    schema: Mapping[str, Any] | None = None
    """JSON schema that the reply must satisfy; None for free text. Thinking is never constrained."""
    schema_name: str = "reply"
    max_tokens: int = 1024
    """Most tokens of the reply, without the thinking."""
    thinking_tokens: int = 0
    """Most tokens that the model may think before it replies; 0 disables thinking."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def content(self) -> str:
        return self.shared + self.question


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One reply; ``text`` is without the thinking.

    Token counts are those reported by the endpoint or engine: ``cached_tokens`` are prompt tokens served from a prefix
    cache, ``thinking_tokens`` are included in ``completion_tokens``. ``cut``: the token limit ended the reply.
    ``oversized``: the reply was too large to read or store, and this empty one replaces it.
    """

    text: str
    thinking: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    cut: bool = False
    oversized: bool = False


class Fault(enum.Enum):
    """Kind of failure of a request. All but the last three are transient: a retry may succeed."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    MALFORMED = "malformed"
    """The response is not a chat completion: truncated, not JSON, without choices."""
    OVERSIZED = "oversized"
    """The response exceeds the size limit; the rest of it was not read."""
    REFUSED = "refused"
    """Invalid request (too long, unsupported schema); do not retry."""
    SETUP = "setup"
    """No request can succeed: wrong key, unknown model, wrong address."""


class ChatError(Exception):
    """A failed request. ``retry_after``: seconds to wait before a retry, as the endpoint demands; None if it does not."""

    def __init__(self, fault: Fault, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatError, (self.fault, str(self), self.retry_after)

    @property
    def transient(self) -> bool:
        """Whether a retry of the same request may succeed."""
        return self.fault not in (Fault.OVERSIZED, Fault.REFUSED, Fault.SETUP)


@runtime_checkable
class ChatClient(Protocol):
    """Interface of a client that answers chat requests.

    All coroutines of one ``async with chat.session()`` run on one event loop; however a session ends, it leaves no task,
    thread or connection behind. ``complete`` does not retry. It raises ``ChatError`` for failures of the endpoint; any
    other exception is an error of the program or the settings (``ConfigError``) and ends the judging.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """The configured settings that replies depend on, besides the request; never a key or secret."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings and, if they can change, a fingerprint of the weights: part of the key of stored replies."""
        ...

    def session(self) -> Any:
        """Return an async context manager; enter it around all calls of ``complete``."""
        ...

    async def complete(self, request: ChatRequest) -> ChatReply: ...

    def close(self) -> None: ...


@runtime_checkable
class PolicyChat(Protocol):
    """A chat client whose model can be the policy itself."""

    @property
    def needs_policy(self) -> bool:
        """Whether ``refresh`` must be called before ``complete``."""
        ...

    def share_engine(self, engine: Engine) -> None:
        """Sample with the policy's engine, if the model is the policy and no other engine was configured."""
        ...

    def refresh(self, policy: Policy) -> bool:
        """Load the policy's weights, if the model is the policy; return whether the weights changed."""
        ...
