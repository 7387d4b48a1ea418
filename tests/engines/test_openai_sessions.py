"""Sessions leave nothing behind, however they end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lit_tpgrpo.engines.chat import ChatEngine, ChatError, Fault
from lit_tpgrpo.engines.openai_chat import OpenAIChat
from tests.engines import misbehaving_server as bad
from tests.engines.misbehaving_server import MisbehavingServer, ok
from tests.engines.openai_talk import ASK
from tests.engines.openai_talk import environment as environment


@pytest.mark.slow
def test_a_cancelled_request_leaves_no_task_and_no_connection():
    with MisbehavingServer(lambda *_: bad.HANG) as server:
        engine = OpenAIChat("judge", server.base_url)

        async def main() -> set[asyncio.Task]:
            async with engine.session():
                tasks = [asyncio.create_task(engine.complete(ASK)) for _ in range(3)]
                await asyncio.to_thread(server.wait_for, lambda: server.requests == 3)
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(e, asyncio.CancelledError) for e in ended)
                # Within the session: a cancelled request does not wait for its end to give up the connection.
                await asyncio.to_thread(server.wait_for, lambda: server.connections == 0)
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert asyncio.run(main()) == set()
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    for thread in others:
        thread.join(10)
    assert not [t for t in others if t.is_alive() and "AnyIO" in t.name]


def test_a_session_that_ends_closes_connections_and_the_requests_on_them():
    with MisbehavingServer(lambda _, number: ok("kept alive") if number == 0 else bad.HANG) as server:
        engine = OpenAIChat("judge", server.base_url)

        async def main() -> None:
            async with engine.session():
                await engine.complete(ASK)
                assert server.connections == 1
                task = asyncio.create_task(engine.complete(ASK))
                await asyncio.to_thread(server.wait_for, lambda: server.requests == 2)
            await asyncio.to_thread(server.wait_for, lambda: server.connections == 0)
            with pytest.raises(ChatError) as caught:
                await task
            assert caught.value.fault is Fault.CONNECTION
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())


def test_more_requests_than_connections_wait_their_turn():
    with MisbehavingServer(lambda *_: ok("fine")) as server:
        engine = OpenAIChat("judge", server.base_url, max_connections=2)

        async def main() -> None:
            async with engine.session():
                await asyncio.gather(*(engine.complete(ASK) for _ in range(20)))

        asyncio.run(main())
        assert server.requests == 20
        assert server.most_connections == 2


def test_outside_a_session_nothing_is_asked_and_one_engine_serves_many_sessions():
    with MisbehavingServer(lambda *_: ok("fine")) as server:
        engine = OpenAIChat("judge", server.base_url)
        assert isinstance(engine, ChatEngine)

        async def main() -> None:
            async with engine.session():
                await engine.complete(ASK)
                with pytest.raises(RuntimeError, match="entered twice"):
                    async with engine.session():
                        pass
                await engine.complete(ASK)

        with pytest.raises(RuntimeError, match="outside a session"):
            asyncio.run(engine.complete(ASK))
        asyncio.run(main())
        asyncio.run(main())
        engine.close()
        engine.close()
        assert server.requests == 4


def test_seeded_faults_fall_on_the_same_requests_in_any_order():
    def outcomes(order: list[int]) -> dict[int, list[str]]:
        behave = bad.random_faults(1, 0.5, lambda *_: ok("fine"))
        return {i: [str(behave({"request": i}, 0)) for _ in range(3)] for i in order}

    forward = outcomes(list(range(20)))
    assert forward == outcomes(list(reversed(range(20))))
    assert 0.2 < sum(a == str(ok("fine")) for kinds in forward.values() for a in kinds) / 60 < 0.8
