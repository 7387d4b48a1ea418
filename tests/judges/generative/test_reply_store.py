"""One line of a shared reply store that is no reply stops nobody: it is named, counted and left out."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest

from lit_tpgrpo.chat.base import ChatReply
from lit_tpgrpo.judges.generative.replies import ReplyStore

REPLY = ChatReply("yes", "", 5, 1)
OTHERS = [
    {"key": "b"},
    {"reply": {"text": "no"}},
    {"key": 7, "reply": {"text": "no"}},
    {"key": ["b"], "reply": {"text": "no"}},
    {"key": "b", "reply": "no"},
    {"key": "b", "reply": {}},
    {"key": "b", "reply": {"text": None}},
    {"key": "b", "reply": {"text": "no", "prompt_tokens": "5"}},
    {"key": "b", "reply": {"text": "no", "prompt_tokens": True}},
    {"key": "b", "reply": {"text": "no", "cut": 1}},
    {"key": "b", "reply": {"text": "no", "mood": "good"}},
]


def test_invalid_lines_are_named_counted_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ReplyStore(tmp_path).add("a", REPLY)
    (path,) = tmp_path.glob("replies.*.jsonl")
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in OTHERS) + 'null\n{"key": \n')
        file.write(json.dumps({"key": "c", "reply": asdict(REPLY) | {"text": "half a pair: \ud800"}}) + "\n")
    with caplog.at_level(logging.WARNING):
        store = ReplyStore(tmp_path)
        assert (store.get("a"), store.get("b")) == (REPLY, None)
    kept = store.get("c")
    assert kept is not None
    assert kept.text == "half a pair: \ud800"
    assert (
        f"11 lines of {path} are not valid replies and are skipped (line 2: KeyError: 'reply'; line 3: " in caplog.text
    )
    assert f"{path}:13 is not a JSON object" in caplog.text
    assert f"{path}:14 is incomplete" in caplog.text
    store.add("b", REPLY)  # and goes on
    assert ReplyStore(tmp_path).get("b") == REPLY
