"""Cache of the LLM's replies on disk, keyed by everything they depend on, so that no request is sent twice."""

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
"""A reply with default values, for the type of each field."""


def reply_key(identity: Mapping[str, Any], request: ChatRequest) -> str:
    """Return a hash of the prompt, the model and the settings; the same in every process."""
    asked = {field.name: getattr(request, field.name) for field in fields(request)}
    material = json.dumps([dict(identity), asked], sort_keys=True, default=str)
    return hashlib.sha256(material.encode()).hexdigest()[:32]


class ReplyStore:
    """Replies by key, in a folder of append-only files: each process writes one and reads all.

    Replies are stored without their thinking. Invalid replies are stored as well: they count as used attempts.

    Args:
        folder: created by ``check_writable``, which must be called before ``add``; None stores nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder is not None else None
        self._replies: dict[str, ChatReply] | None = None

    def get(self, key: str) -> ChatReply | None:
        """Return the reply stored under this key by this process or an earlier one; None if there is none."""
        if self.folder is None:
            return None
        if self._replies is None:
            self._replies = {}
            for path in sorted(self.folder.glob("replies*.jsonl")):
                self._replies |= _replies_in(path)
        return self._replies.get(key)

    def check_writable(self) -> None:
        """Create the folder and check that it can be written, before the first request.

        Raises:
            StorageError: replies cannot be written there.
        """
        if self.folder is not None:
            make_writable(self.folder, "the judge's replies", "judge.store")

    def add(self, key: str, reply: ChatReply) -> None:
        """Store a reply; it is on disk when this returns.

        Raises:
            StorageError: it cannot be written.
        """
        if self.folder is None:
            return
        self.get(key)
        stored = replace(reply, thinking="")
        path = self.folder / f"replies.{platform.node()}.{os.getpid()}.jsonl"
        append_line(path, {"key": key, "reply": asdict(stored)})
        assert self._replies is not None
        self._replies[key] = stored


def _replies_in(path: Path) -> dict[str, ChatReply]:
    """Return the replies in a file. Lines that are not replies are skipped with a warning: runs share these files."""
    replies, invalid = {}, []
    for number, line in numbered_lines(path):
        try:
            replies[_key(line["key"])] = _reply(line["reply"])
        except (KeyError, TypeError, ValueError) as error:
            invalid.append(f"line {number}: {type(error).__name__}: {error}")
    if invalid:
        log.warning(
            "%d lines of %s are not valid replies and are skipped (%s%s); their requests are sent again",
            len(invalid),
            path,
            "; ".join(invalid[:3])[:300],
            "; ..." if len(invalid) > 3 else "",
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
