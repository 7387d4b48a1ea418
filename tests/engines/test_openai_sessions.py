"""Sessions leave nothing behind, however they end."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
from pathlib import Path

import pytest

from lit_tpgrpo.bounded_http import tls_context
from lit_tpgrpo.chat.base import ChatClient, ChatError, Fault
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.errors import ConfigError
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
    workers = [t for t in threading.enumerate() if "AnyIO" in t.name]  # those of other tests' programs may go on
    for thread in workers:
        thread.join(1200)
    assert not [t for t in workers if t.is_alive()]


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
        assert isinstance(engine, ChatClient)

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


@pytest.mark.slow
def test_sessions_share_one_tls_context():
    """A client is a reference cycle: the certificates of one a round would wait for the next full collection."""
    with MisbehavingServer(lambda *_: ok("fine")) as server:

        def converse() -> None:
            engine = OpenAIChat("judge", server.base_url)  # as each process and each callback has its own

            async def main() -> None:
                async with engine.session():
                    await engine.complete(ASK)

            asyncio.run(main())

        converse()
        gc.collect()
        gc.disable()
        try:
            before = _contexts()
            for _ in range(5):
                converse()
            assert _contexts() == before
        finally:
            gc.enable()


def _contexts() -> int:
    # By type: `isinstance` asks openai's lazy proxies for their class, which creates a client with a context.
    return sum(issubclass(type(o), ssl.SSLContext) for o in gc.get_objects())


# Self-signed, for localhost.
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUMCIawvvG8l9WnzvkppiTZOsJhpowCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjIwMjUwMVoYDzIxMjYxMTAy
MjAyNTAxWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATaIx3dn0+hBOQ/VFi2gEbTn2kDqQ8ODWkd2BuD0muT3V/pW8h8Df8J
0q4fo4ano/sanAOUs0b7LlgIpo4f0iAio28wbTAdBgNVHQ4EFgQUGWPf8Llnv27e
ZtzoDoxm4/uv7X8wHwYDVR0jBBgwFoAUGWPf8Llnv27eZtzoDoxm4/uv7X8wDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIgM2Eo8FbraQr0XqVPo5amDLKXqMk5h9W1gDMkYfpOANQCIQCU
MRKWabA0tvKyGN4WPov6KwvgpCLabTTJZzW9vgb8rQ==
-----END CERTIFICATE-----
"""


def test_the_shared_context_follows_the_certificates_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    default, direct = tls_context(), tls_context(trust_env=False)
    path = tmp_path / "authority.pem"
    path.write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    own = tls_context()
    assert [ssl.DER_cert_to_PEM_cert(c) for c in own.get_ca_certs(binary_form=True)] == [CERTIFICATE]
    assert own.verify_mode is ssl.CERT_REQUIRED
    assert own.check_hostname
    assert tls_context() is own
    assert tls_context(trust_env=False) is direct
    monkeypatch.delenv("SSL_CERT_FILE")
    assert tls_context() is default


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_named_in_one_line(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))

    async def main() -> None:
        async with OpenAIChat("judge", "http://127.0.0.1:9/v1").session():
            pass

    with pytest.raises(ConfigError, match=rf"the certificates of SSL_CERT_FILE={path} cannot be read .*unset it$"):
        asyncio.run(main())
