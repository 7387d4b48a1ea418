"""An endpoint whose answers are too large: no more is read than may be, on the wire and decompressed."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib

import pytest

from lit_tpgrpo.chat.base import Fault
from lit_tpgrpo.engines.vllm import client
from tests.engines import misbehaving_server as bad
from tests.engines.misbehaving_server import Behaviour, MisbehavingServer, completion, ok
from tests.engines.openai_talk import ask, fails, talk
from tests.engines.openai_talk import environment as environment

MB = 2**20
GZIP = {"Content-Encoding": "gzip"}


def bomb(megabytes: int) -> bytes:
    """So many megabytes of spaces, a thousandth of that compressed."""
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*(packer.compress(b" " * MB) for _ in range(megabytes)), packer.flush()])


BOMB = bomb(64)
EMPTY_BLOCKS = b"\x00\x00\x00\xff\xff" * 13_000
"""Stored deflate blocks of no bytes: they decompress to nothing, however many there are."""

TOO_LARGE = {
    "a long body": Behaviour(payload=b" " * (8 * MB)),
    "a long error": Behaviour(status=500, payload=b" " * (8 * MB)),
    "gzip": Behaviour(payload=BOMB, headers=GZIP),
    "gzip in gzip": Behaviour(payload=gzip.compress(BOMB), headers={"Content-Encoding": "gzip, gzip"}),
    "deflate": Behaviour(payload=zlib.compress(b" " * (8 * MB)), headers={"Content-Encoding": "deflate"}),
    "a gzipped error": Behaviour(status=401, payload=BOMB, headers=GZIP),
    "endless chunks": bad.FLOOD,
    "endless gzip of nothing": Behaviour("flood", payload=EMPTY_BLOCKS, headers={"Content-Encoding": "deflate"}),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_an_answer_that_is_too_large_is_given_up_whatever_it_is(name: str):
    error = fails(TOO_LARGE[name], max_answer_bytes=MB)
    assert error.fault is Fault.OVERSIZED
    assert "has more than 1,048,576 bytes" in str(error)
    assert error.__cause__ is error.__context__ is None


@pytest.mark.parametrize("name", ["gzip", "gzip in gzip", "endless chunks"])
def test_no_more_memory_is_used_than_a_few_times_the_limit(name: str):
    fails(ok("first"), max_answer_bytes=1024, timeout_s=1e-9)  # what is imported and cached on first use
    tracemalloc.start()
    try:
        fails(TOO_LARGE[name], max_answer_bytes=MB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * MB  # the limit, a piece of 1 MiB more, and copies of pieces; without limit over 64 MB


def test_the_server_of_an_endless_answer_is_hung_up_on():
    with MisbehavingServer(lambda *_: bad.FLOOD) as server:
        with pytest.raises(Exception, match="has more than 1,048,576 bytes"):
            ask(server, max_answer_bytes=MB)
        server.wait_for(lambda: server.connections == 0)
        assert server.flooded < 32 * MB  # what was in the buffers of both sides


def test_a_rollout_server_cannot_send_more_either(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", MB)
    loop = client.EventLoopThread()
    try:
        with MisbehavingServer(lambda *_: bad.FLOOD) as server:
            asks = client.ServerClient(server.base_url, "a-key-of-some-length", "VLLM_API_KEY", loop, 3600.0, 3600.0)
            with pytest.raises(client.ServerLostError, match="has more than 1,048,576 bytes"):
                asks.ask("GET", "weight_info")
            with pytest.raises(client.ServerLostError, match="has more than 1,048,576 bytes"):
                asks.check_requires_key()
            server.wait_for(lambda: server.connections == 0)
            assert server.flooded < 64 * MB
            asks.close()
    finally:
        loop.close()


def test_answers_up_to_the_limit_are_read_compressed_or_not():
    body = json.dumps(completion("x" * 3000)).encode()
    for headers, payload in (({}, body), (GZIP, gzip.compress(body))):
        reply, _ = talk(Behaviour(payload=payload, headers=headers), max_answer_bytes=len(body))
        assert reply.text == "x" * 3000
        assert (
            fails(Behaviour(payload=payload, headers=headers), max_answer_bytes=len(body) - 1).fault is Fault.OVERSIZED
        )


def test_a_count_of_tokens_that_no_request_can_have_counts_as_none():
    usage = {
        "prompt_tokens": 10**400,
        "completion_tokens": 2**31 - 1,
        "prompt_tokens_details": {"cached_tokens": 2**31},
    }
    reply, _ = talk(ok("text", usage=usage))
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (0, 2**31 - 1, 0)
