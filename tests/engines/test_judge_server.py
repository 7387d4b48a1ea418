"""The example server, asked with the OpenAI client."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from lit_tpgrpo.chat.base import ChatError, ChatReply, ChatRequest, Fault
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from tests.engines.openai_talk import SCHEMA
from tests.engines.openai_talk import environment as environment


@pytest.fixture(scope="module")
def judge_server() -> Iterator[tuple[subprocess.Popen, str]]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "examples.judge_server", "--model", "embedded:tiny-qwen2", "--think"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            assert line.startswith("listening on http://127.0.0.1:"), line
            yield server, line.removeprefix("listening on ").strip()
        finally:
            server.kill()


BAD = (
    '"seed": 1e999',
    f'"seed": {2**70}',
    '"seed": -1',
    '"max_completion_tokens": Infinity',
    f'"max_completion_tokens": {10**400}',
    f'"temperature": {10**400}',
    '"temperature": NaN',
    '"x": ' + "[" * 20_000 + "]" * 20_000,
    f'"x": 1{"0" * 5000}',
    '"chat_template_kwargs": [1]',
    '"response_format": {"type": "json_schema"}',
)


async def check_bad_requests(address: str) -> None:
    """A request that cannot be answered is refused alone, whatever is wrong with it and whoever came with it."""
    good = '"messages": [{"role": "user", "content": "What is 2 + 3?"}], "chat_template_kwargs": {"enable_thinking": false}'
    bodies = [f'{{{good}, "max_completion_tokens": 4, {more}}}' for more in ['"n": 1'] * 8 + list(BAD)]
    async with aiohttp.ClientSession() as session:

        async def status(body: str) -> int:
            headers = {"Content-Type": "application/json"}
            async with session.post(f"{address}/chat/completions", data=body, headers=headers) as response:
                return response.status

        assert await asyncio.gather(*map(status, bodies)) == [200] * 8 + [400] * len(BAD)


@pytest.mark.slow
def test_the_example_server_answers_and_ends_on_sigterm(judge_server: tuple[subprocess.Popen, str]):
    server, address = judge_server
    question = ChatRequest("", "What is 2 + 3?", max_tokens=8)
    engine = OpenAIChat("embedded:tiny-qwen2", address, thinking="native", thinking_switch=True)

    async def main() -> tuple[list[ChatReply], ChatReply, ChatReply, ChatError]:
        async with engine.session():
            plain = await asyncio.gather(*(engine.complete(question) for _ in range(4)))
            thinking = await engine.complete(ChatRequest("", "What is 2 + 3?", max_tokens=8, thinking_tokens=8))
            schema = await engine.complete(ChatRequest("", "Which id?", SCHEMA, max_tokens=40))
            with pytest.raises(ChatError) as caught:
                await engine.complete(ChatRequest("", "What is 2 + 3?", max_tokens=100_000))
        await check_bad_requests(address)
        return plain, thinking, schema, caught.value

    plain, thinking, schema, error = asyncio.run(main())
    assert len({reply.text for reply in plain}) == 1
    assert all(0 < reply.completion_tokens <= 8 and reply.prompt_tokens > 0 for reply in plain)
    assert thinking.thinking
    assert schema.text.lstrip().startswith("{")
    assert error.fault is Fault.REFUSED
    assert "positions of the model" in str(error)
    server.send_signal(signal.SIGTERM)
    assert server.wait(600) == 0
