"""Replies on disk, keyed by all that they depend on: what was asked and answered once is never paid for again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from lit_tpgrpo.chat.base import ChatReply, ChatRequest
from lit_tpgrpo.jsonl import append_line, make_writable, numbered_lines

log = logging.getLogger(__name__)
_BLANK = ChatReply("")
"""Says of which type each field is."""


def reply_key(identity: Mapping[str, Any], request: ChatRequest) -> str:
    """A hash of the prompt, the model and the settings, equal in every process."""
    asked = {field.name: getattr(request, field.name) for field in fields(request)}
    material = json.dumps([dict(identity), asked], sort_keys=True, default=str)
    return hashlib.sha256(material.encode()).hexdigest()[:32]


class ReplyStore:
    """Replies by key, in a folder of append-only files: one for each process, all of which are read.

    Without their thinking. Invalid replies are kept as well: that attempt is used up.

    Args:
        folder: created by ``check_writable``, which comes before ``add``; None stores nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder is not None else None
        self._replies: dict[str, ChatReply] | None = None

    def get(self, key: str) -> ChatReply | None:
        """The reply that was stored under this key, by this process or one before it."""
        if self.folder is None:
            return None
        if self._replies is None:
            self._replies = {}
            for path in sorted(self.folder.glob("replies*.jsonl")):
                self._replies |= _replies_in(path)
        return self._replies.get(key)

    def check_writable(self) -> None:
        """Create the folder, before there is a reply to lose.

        Raises:
            StorageError: replies cannot be written there.
        """
        if self.folder is not None:
            make_writable(self.folder, "the judge's replies", "judge.store")

    def add(self, key: str, reply: ChatReply) -> None:
        """Store a reply; on disk when this returns.

        Raises:
            StorageError: it cannot be written.
        """
        if self.folder is None:
            return
        self.get(key)
        kept = replace(reply, thinking="")
        append_line(self.folder / f"replies.{platform.node()}.{os.getpid()}.jsonl", {"key": key, "reply": asdict(kept)})
        assert self._replies is not None
        self._replies[key] = kept


def _replies_in(path: Path) -> dict[str, ChatReply]:
    """Return the replies of a file. Lines that hold none, edited or of another program, are named, counted and left out: runs
    share these files."""
    replies, others = {}, []
    for number, line in numbered_lines(path):
        try:
            replies[_key(line["key"])] = _reply(line["reply"])
        except (KeyError, TypeError, ValueError) as error:
            others.append(f"line {number}: {type(error).__name__}: {error}")
    if others:
        log.warning(
            "%d lines of %s hold no reply and are left out (%s%s); what they answered is asked again",
            len(others),
            path,
            "; ".join(others[:3])[:300],
            "; ..." if len(others) > 3 else "",
        )
    return replies


def _key(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text as key, got {type(value).__name__}")
    return value


def _reply(row: Any) -> ChatReply:
    if not isinstance(row, dict):
        raise TypeError(f"expected a reply, got {type(row).__name__}")
    for name, value in row.items():
        expected = type(getattr(_BLANK, name, None))
        if type(value) is not expected:
            raise TypeError(f"expected {expected.__name__} as {name}, got {type(value).__name__}")
    return ChatReply(**row)
