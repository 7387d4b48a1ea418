"""What the tests of the OpenAI client share: an environment, requests, and one exchange with a misbehaving server."""

from __future__ import annotations

import asyncio

import pytest

from lit_tpgrpo.chat.base import ChatError, ChatReply, ChatRequest
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from tests.engines.misbehaving_server import Behaviour, MisbehavingServer

KEY = "sk-recognisable-4711"
SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"], "additionalProperties": False}
ASK = ChatRequest("A solution. ", "Is it right?", SCHEMA, "verdict", max_tokens=50, seed=7)
THINK = ChatRequest("A solution. ", "Is it right?", SCHEMA, "verdict", max_tokens=50, thinking_tokens=100)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_BASE_URL",
        "OPENAI_LOG",
        "OPENAI_CUSTOM_HEADERS",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def talk(
    behaviours: list[Behaviour] | Behaviour, request: ChatRequest = ASK, **options
) -> tuple[ChatReply, list[dict]]:
    """The reply to one request, and the bodies that were sent for it."""
    turns = behaviours if isinstance(behaviours, list) else [behaviours]
    with MisbehavingServer(lambda _, number: turns[number]) as server:
        return ask(server, request, **options), server.bodies


def ask(server: MisbehavingServer, request: ChatRequest = ASK, **options) -> ChatReply:
    """The reply of a server to one request."""
    engine = OpenAIChat("judge", server.base_url, **options)

    async def main() -> ChatReply:
        async with engine.session():
            return await engine.complete(request)

    return asyncio.run(main())


def fails(behaviour: Behaviour, request: ChatRequest = ASK, **options) -> ChatError:
    with pytest.raises(ChatError) as caught:
        talk([behaviour], request, **options)
    return caught.value
