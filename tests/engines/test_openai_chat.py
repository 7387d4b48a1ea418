"""The OpenAI client against a real server: what is sent, what is read, which settings are refused."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lit_tpgrpo.chat.base import ChatReply, ChatRequest
from lit_tpgrpo.chat.openai_chat import STOP_THINKING, THINK_FIRST, OpenAIChat
from lit_tpgrpo.errors import ConfigError
from tests.engines import misbehaving_server as bad
from tests.engines.misbehaving_server import Behaviour, ok
from tests.engines.openai_talk import SCHEMA, THINK, talk
from tests.engines.openai_talk import environment as environment

# ---- requests and replies ----


def test_a_request_carries_prompt_schema_and_sampling_and_the_reply_its_usage():
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    reply, (body,) = talk(ok('{"id": "00ff"}', usage=usage), extra_body={"top_k": 5})
    assert reply == ChatReply('{"id": "00ff"}', "", 30, 9, 16, 4, cut=False)
    assert body == {
        "model": "judge",
        "messages": [{"role": "user", "content": "A solution. Is it right?"}],
        "max_tokens": 50,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True},
        },
        "top_k": 5,
    }


@pytest.mark.parametrize(("form", "sent"), [("json_object", {"type": "json_object"}), ("none", None)])
def test_other_response_formats(form: str, sent: object):
    _, (body,) = talk(ok("{}"), response_format=form, limit_name="max_completion_tokens")
    assert body.get("response_format") == sent
    assert body["max_completion_tokens"] == 50
    assert "max_tokens" not in body


def test_a_request_without_schema_is_free_text():
    _, (body,) = talk(ok("text"), ChatRequest("a", "b"))
    assert "response_format" not in body


@pytest.mark.parametrize(
    "usage", ["free", [1], {"prompt_tokens": None, "completion_tokens": True}, {"prompt_tokens": -3}]
)
def test_odd_usage_counts_as_none(usage: object):
    reply, _ = talk(ok("text", usage=usage))
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


def test_a_reply_at_the_limit_is_marked_cut_and_empty_ones_are_replies():
    assert talk(ok('{"id', finish_reason="length"))[0] == ChatReply('{"id', "", 10, 5, cut=True)
    assert talk(bad.EMPTY_CONTENT)[0].text == ""
    assert talk(ok(None, reasoning="only thought"))[0] == ChatReply("", "only thought", 10, 5)


# ---- thinking ----


def test_without_thinking_tokens_a_plain_request_is_sent():
    for mode in ("native", "two_turns"):
        reply, bodies = talk(ok('{"a": "</think>"}'), thinking=mode, thinking_switch=True)
        assert reply.text == '{"a": "</think>"}'
        assert [b["max_tokens"] for b in bodies] == [50]
        assert bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    "behaviour",
    [
        ok('{"id": "1"}', reasoning_content="because"),
        ok('{"id": "1"}', reasoning="because"),
        ok('<think>\nbecause\n</think>\n{"id": "1"}'),
        ok('because</think>{"id": "1"}'),
    ],
)
def test_native_thinking_is_separated(behaviour: Behaviour):
    reply, (body,) = talk(behaviour, THINK, thinking="native", thinking_switch=True)
    assert (reply.thinking, reply.text) == ("because", '{"id": "1"}')
    assert body["max_tokens"] == 150
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    "cut",
    [
        ok(None, "length", reasoning_content="hm, hm"),
        ok("", "length", reasoning="hm, hm"),
        ok("<think>hm, hm", "length"),
        ok("hm, hm", "length"),
        ok(None, "stop", reasoning="hm, hm"),
    ],
)
def test_thinking_that_ends_before_the_reply_leads_to_a_second_turn(cut: Behaviour):
    extra = {"chat_template_kwargs": {"style": "x"}}
    reply, (first, second) = talk([cut, ok('{"id": "1"}')], THINK, thinking="native", extra_body=extra)
    assert reply == ChatReply('{"id": "1"}', "hm, hm", 20, 10, thinking_tokens=5)
    assert first["chat_template_kwargs"] == {"style": "x"}
    assert second["chat_template_kwargs"] == {"style": "x", "enable_thinking": False}
    assert second["messages"] == [
        {"role": "user", "content": "A solution. Is it right?"},
        {"role": "assistant", "content": "hm, hm"},
        {"role": "user", "content": STOP_THINKING},
    ]
    assert second["max_tokens"] == 50
    assert second["response_format"] == first["response_format"]


def test_a_reply_that_is_cut_is_no_thinking():
    reply, bodies = talk(ok('{"id": ', "length"), THINK, thinking="native")
    assert (reply.text, reply.thinking, reply.cut, len(bodies)) == ('{"id": ', "", True, 1)


def test_two_turns_think_without_the_schema_and_reply_with_it():
    reply, (first, second) = talk(
        [ok("hm", "length"), ok('{"id": "1"}')], THINK, thinking="two_turns", thinking_switch=True
    )
    assert reply == ChatReply('{"id": "1"}', "hm", 20, 10, thinking_tokens=5)
    assert first["max_tokens"] == 100
    assert "response_format" not in first
    assert second["messages"][0] == first["messages"][0] == {"role": "user", "content": THINK.content + THINK_FIRST}
    assert second["messages"][1:] == [
        {"role": "assistant", "content": "hm"},
        {"role": "user", "content": STOP_THINKING},
    ]
    assert (first["chat_template_kwargs"], second["chat_template_kwargs"]) == (
        {"enable_thinking": True},
        {"enable_thinking": False},
    )


def test_two_turns_without_a_thought_ask_plainly():
    _, (_, second) = talk([ok(""), ok("{}")], THINK, thinking="two_turns")
    assert second["messages"] == [{"role": "user", "content": THINK.content}]


# ---- settings ----


def test_an_address_must_be_given(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL"):
        OpenAIChat("judge")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    assert OpenAIChat("judge").base_url == "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://h/v1",
        "http:///v1",
        "http://h:port/v1",
        "http://[h/v1",
        "https://u:pass-word@h/v1",
        "u:pass-word@h",
        "http://h/v1?key=pass-word",
        "http://u:pass-word@h:x/",
    ],
)
def test_addresses_that_cannot_be_used(url: str):
    with pytest.raises(ConfigError, match="base_url") as caught:
        OpenAIChat("judge", url)
    assert "pass-word" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": " "}, "model must not be empty"),
        ({"timeout_s": 0}, "timeout_s must be a positive"),
        ({"timeout_s": float("nan")}, "timeout_s must be a positive"),
        ({"connect_timeout_s": float("inf")}, "connect_timeout_s must be a positive"),
        ({"max_connections": 0}, "max_connections must be at least 1"),
        ({"response_format": "guided"}, "response_format: expected json_schema, json_object or none, got 'guided'"),
        ({"thinking": "on"}, "thinking: expected off, native or two_turns"),
        ({"max_answer_bytes": 10}, "max_answer_bytes must be at least 1024, got 10"),
        ({"limit_name": "n"}, "limit_name: expected max_tokens or max_completion_tokens"),
        ({"extra_body": {"seed": 1, "model": "x"}}, "extra_body must not set model, seed"),
        ({"extra_body": {"x": object()}}, "extra_body must be plain JSON"),
        ({"extra_body": {"chat_template_kwargs": [1]}}, "chat_template_kwargs must be a mapping"),
    ],
)
def test_bad_values_are_refused(options: dict, words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        OpenAIChat(**{"model": "judge", "base_url": "http://h/v1", **options})


def test_identity_changes_with_what_shapes_replies_and_with_nothing_else():
    def identity(**options) -> object:
        return OpenAIChat(**{"model": "judge", "base_url": "http://h:1/v1", **options}).identity

    for same in (
        {"timeout_s": 1},
        {"connect_timeout_s": 1},
        {"max_connections": 1},
        {"api_key_env": "VLLM_API_KEY"},
        {"max_answer_bytes": 2000},
        {"base_url": "http://another:2/v1"},
    ):
        assert identity(**same) == identity()
    others = (
        {"model": "b"},
        {"thinking": "native"},
        {"thinking_switch": True},
        {"extra_body": {"top_k": 1}},
        {"response_format": "none"},
    )
    assert all(identity(**other) != identity() for other in others)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=re.escape('pip install "openai>=3.54,<4"')):
        talk(ok("unused"))


def test_the_package_is_imported_only_when_it_is_used():
    code = "import sys, lit_tpgrpo.chat.openai_chat as m; m.OpenAIChat('m', 'http://h/v1')"
    code += "; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=1200).returncode == 0
