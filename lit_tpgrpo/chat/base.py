"""The chat interface: one request in, one reply out, asynchronously; what a generative judge asks its questions through.

Implementations: ``openai_chat`` (any OpenAI-compatible endpoint) and ``local_chat`` (a sampling engine of ours).
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
    """One user turn: ``shared`` is the text that many requests begin with, ``question`` what this one ends with.

    The turn is ``shared + question``; a cache of prefixes then serves all questions about one text.
    """

    shared: str
    question: str
    schema: Mapping[str, Any] | None = None
    """JSON schema that the reply has to satisfy; free text without one. Thinking is never constrained."""
    schema_name: str = "reply"
    max_tokens: int = 1024
    """Of the reply, without the thinking."""
    thinking_tokens: int = 0
    """How many tokens the model may think before it replies; 0: not at all."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def content(self) -> str:
        return self.shared + self.question


@dataclass(frozen=True, slots=True)
class ChatReply:
    """``text`` without the thinking. Token counts are the engine's own; ``cached_tokens`` of the prompt came from a prefix
    cache, ``thinking_tokens`` are part of ``completion_tokens``. ``cut``: the token limit ended it. ``oversized``: there was an
    answer, too large to be read or kept; this is in its place."""

    text: str
    thinking: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    cut: bool = False
    oversized: bool = False


class Fault(enum.Enum):
    """What went wrong with a request. All but the last three may pass if it is sent again."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    MALFORMED = "malformed"
    """An answer that is no chat completion: cut off, not JSON, without choices."""
    OVERSIZED = "oversized"
    """The answer is larger than it may be, and was given up."""
    REFUSED = "refused"
    """This request is at fault (too long, a schema the endpoint cannot take): sending it again is in vain."""
    SETUP = "setup"
    """No request can succeed: wrong key, unknown model, wrong address."""


class ChatError(Exception):
    """A request that came to nothing. ``retry_after``: seconds that the endpoint asked to be left alone for."""

    def __init__(self, fault: Fault, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatError, (self.fault, str(self), self.retry_after)

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.fault not in (Fault.OVERSIZED, Fault.REFUSED, Fault.SETUP)


@runtime_checkable
class ChatClient(Protocol):
    """Answers chat requests.

    All coroutines of one ``async with engine.session()`` run on one event loop; a session that ends, however it does,
    leaves no task, thread or connection behind. ``complete`` does not retry. What an endpoint does wrong is a ``ChatError``;
    anything else that it raises is a mistake in the program or the settings (``ConfigError``) and ends the judging.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """What replies depend on besides the request, as it was configured; never a key or a secret."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings, and the weights where they may change: stored replies are looked up by it."""
        ...

    def session(self) -> Any:
        """An async context manager around all calls of ``complete``."""
        ...

    async def complete(self, request: ChatRequest) -> ChatReply: ...

    def close(self) -> None: ...


@runtime_checkable
class PolicyChat(Protocol):
    """A chat engine that can be the policy itself."""

    @property
    def needs_policy(self) -> bool:
        """Whether nothing can be asked before the next ``refresh``."""
        ...

    def share_engine(self, engine: Engine) -> None:
        """Use the policy's engine, where the policy is what answers and no other engine was chosen."""
        ...

    def refresh(self, policy: Policy) -> bool:
        """Take over the policy's weights, if it is what answers; returns whether anything changed."""
        ...
