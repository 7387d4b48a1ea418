"""A server that misbehaves: every fault is named, and no key gets out."""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import time
from email.utils import formatdate

import pytest

from lit_tpgrpo.chat.base import ChatError, ChatRequest, Fault
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.chat.openai_wire import retry_after
from lit_tpgrpo.errors import ConfigError
from tests.engines import misbehaving_server as bad
from tests.engines.misbehaving_server import Behaviour, MisbehavingServer, failure, ok, raw
from tests.engines.openai_talk import ASK, KEY, fails, talk
from tests.engines.openai_talk import environment as environment

# ---- faults ----

FAULTS = {
    "refuse": (bad.REFUSE, Fault.CONNECTION),
    "cut": (bad.CUT, Fault.CONNECTION),
    "bad gzip": (Behaviour(body="no gzip", headers={"Content-Encoding": "gzip"}), Fault.CONNECTION),
    "bad header": (Behaviour(body="{}", headers={"Content-Length": "many"}), Fault.CONNECTION),
    "408": (failure(408), Fault.TIMEOUT),
    "409": (failure(409), Fault.SERVER),
    "429": (bad.rate_limit(), Fault.RATE_LIMIT),
    "quota": (failure(429, code="insufficient_quota"), Fault.SETUP),
    "500": (bad.server_error(500), Fault.SERVER),
    "502 html": (bad.BAD_GATEWAY, Fault.SERVER),
    "503": (bad.server_error(503), Fault.SERVER),
    "400": (bad.TOO_LONG, Fault.REFUSED),
    "413": (failure(413), Fault.REFUSED),
    "422": (failure(422), Fault.REFUSED),
    "401": (bad.UNAUTHORIZED, Fault.SETUP),
    "402": (failure(402), Fault.SETUP),
    "403": (failure(403), Fault.SETUP),
    "404": (bad.NOT_FOUND, Fault.SETUP),
    "redirect": (Behaviour(status=307, headers={"Location": "/elsewhere"}), Fault.SETUP),
    "html": (bad.HTML_200, Fault.MALFORMED),
    "empty body": (Behaviour(), Fault.MALFORMED),
    "half of a json": (Behaviour(body='{"choices": [{"mess'), Fault.MALFORMED),
    "no utf-8": (Behaviour(body="{}", content_type="application/json; charset=none-such"), Fault.MALFORMED),
    "deep json": (Behaviour(body="[" * 100_000), Fault.MALFORMED),
    "a list": (raw([1]), Fault.MALFORMED),
    "no choices": (bad.NO_CHOICES, Fault.MALFORMED),
    "null choices": (raw({"choices": None}), Fault.MALFORMED),
    "null choice": (raw({"choices": [None]}), Fault.MALFORMED),
    "null message": (raw({"choices": [{"message": None}]}), Fault.MALFORMED),
    "parts": (raw({"choices": [{"message": {"content": [{"text": "x"}]}}]}), Fault.MALFORMED),
    "error with 200": (raw({"error": {"message": "overloaded"}}), Fault.MALFORMED),
    "filter": (ok("", finish_reason="content_filter"), Fault.REFUSED),
    "refusal": (ok(None, refusal="I would rather not"), Fault.REFUSED),
    "abort": (ok("half", finish_reason="abort"), Fault.SERVER),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_its_name(name: str):
    behaviour, fault = FAULTS[name]
    error = fails(behaviour)
    assert error.fault is fault
    assert error.retry_after is None
    assert "(model 'judge')" in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None  # the client's exceptions hold the request, and with it the key


def test_messages_say_what_the_endpoint_said_and_what_to_do():
    assert "maximum context length is 4096 tokens" in str(fails(bad.TOO_LONG))
    assert "overloaded" in str(fails(raw({"error": {"message": "overloaded"}})))
    assert "base_url" in str(fails(bad.NOT_FOUND))
    assert "OPENAI_API_KEY; check" in str(fails(bad.UNAUTHORIZED))
    assert "VLLM_API_KEY is not set" in str(fails(bad.UNAUTHORIZED, api_key_env="VLLM_API_KEY"))
    assert "redirects are not followed" in str(fails(FAULTS["redirect"][0]))
    assert len(str(fails(Behaviour(body="<p>" * 5000)))) < 500


def test_a_server_that_does_not_answer_or_never_ends_is_a_timeout():
    for behaviour in (bad.HANG, bad.TRICKLE):
        assert fails(behaviour, timeout_s=0.2).fault is Fault.TIMEOUT


def test_no_server_is_a_connection_fault():
    with MisbehavingServer(lambda *_: ok("")) as server:
        address = server.base_url
    engine = OpenAIChat("judge", address)

    async def main() -> None:
        async with engine.session():
            await engine.complete(ASK)

    with pytest.raises(ChatError) as caught:
        asyncio.run(main())
    assert caught.value.fault is Fault.CONNECTION


def test_a_prompt_that_cannot_be_encoded_is_refused():
    assert fails(ok("unused"), ChatRequest("\ud800", "?")).fault is Fault.REFUSED


def test_retry_after_in_seconds_milliseconds_and_as_a_date():
    assert fails(bad.rate_limit(seconds=3)).retry_after == 3
    assert fails(bad.rate_limit(seconds=3, ms=250)).retry_after == 0.25
    later = fails(bad.rate_limit(date=formatdate(time.time() + 3600, usegmt=True))).retry_after
    assert later is not None
    assert 3000 < later <= 3600
    assert fails(bad.rate_limit(date=formatdate(0, usegmt=True))).retry_after == 0
    assert fails(bad.server_error(503, seconds=2)).retry_after == 2


@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "-1", "Fri, 99 Foo 2020 00:00:00 GMT", "1" * 5000])
def test_unusable_retry_after_is_none(value: str):
    assert retry_after({"retry-after": value}) is None


# ---- the key ----


@pytest.mark.parametrize("key", [KEY, 'k"ey\\with-quotes', KEY + "\n"])
def test_the_key_is_nowhere(key: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    secret, texts = key.strip(), []
    fragment = max(re.split(r"\W+", secret), key=len)  # in whatever way the key is quoted
    caplog.set_level(logging.DEBUG)
    echo = [
        ok("fine"),
        bad.UNAUTHORIZED,
        failure(500, "no such key: {key}"),
        Behaviour(status=500, body="x" * 285 + "{key}", content_type="text/plain"),
        Behaviour(body="<p>{authorization}</p>", content_type="text/html"),
        raw({"error": "no such key: {key}"}),
        failure(400, detail="{key}", message=""),
    ]
    seen = []

    def behave(body: dict, number: int) -> Behaviour:
        return echo[number]

    with MisbehavingServer(behave) as server:
        engine = OpenAIChat("judge", server.base_url)

        async def main() -> None:
            async with engine.session():
                await engine.complete(ASK)
                seen.append(engine._open[0].api_key)
                for _ in echo[1:]:
                    with pytest.raises(ChatError) as caught:
                        await engine.complete(ASK)
                    texts.extend([str(caught.value), repr(caught.value), repr(vars(caught.value))])
                texts.extend([repr(engine), repr(vars(engine)), repr(engine.identity), repr(pickle.dumps(engine))])

        asyncio.run(main())
    assert seen == [secret]  # it was sent, so the rest of this test shows something
    assert "[key]" in "".join(texts)
    assert len(caplog.records) > 10
    for text in [*texts, caplog.text, *(str(r.__dict__) for r in caplog.records)]:
        assert secret not in text
        assert secret[:8] not in text
        assert fragment not in text


def test_a_key_from_the_clients_own_variable_is_not_quoted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer quite-another")
    message = str(fails(bad.UNAUTHORIZED))
    assert "Bearer [key]" in message
    assert "quite-another" not in message


def test_a_key_that_no_header_can_carry_is_a_config_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "first\nsecond")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY has characters") as caught:
        talk(ok("unused"))
    assert "second" not in str(caught.value)


def test_without_a_key_a_placeholder_is_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert talk(ok("fine"))[0].text == "fine"
