"""Keys are removed from what is written: those that this process sends, wherever they turn up again.

An endpoint may repeat the key that it was sent, in a reply, an error or a header. Whoever reads a key from the environment
registers it; what comes from an endpoint is cleaned when it arrives, and what goes into files, logs and messages once more
when it is written, for a key that was spelled with escapes is one only after these were read.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from urllib.parse import quote

MARK = "[key]"
SHORTEST = 8
"""Characters of a key that is removed from everything. Shorter ones, such as the ``EMPTY`` that people give to local servers,
may be words of a reply: they are removed from messages about an endpoint alone."""
_BEARER = re.compile(r"(Bearer\s+)[^\s\"'\\,}]+", re.IGNORECASE)
_spellings: list[str] = []  # the keys as they are, as JSON and as URLs spell them; longest first
_short: list[str] = []


def register_secret(key: str | None) -> None:
    """Have a key removed from now on from everything that this process writes."""
    if not key or key in _spellings or key in _short:
        return
    if len(key) < SHORTEST:
        if len(key) >= 4:
            _short.append(key)
        return
    if not _spellings:
        _clean_log_records()
    spelled = {
        key,
        json.dumps(key)[1:-1],
        json.dumps(key, ensure_ascii=False)[1:-1],
        quote(key, safe=""),
        repr(key)[1:-1],
    }
    _spellings[:] = sorted({*_spellings, *spelled}, key=lambda s: (-len(s), s))


def redacted(text: str) -> str:
    """Replace registered keys in a text."""
    for spelling in _spellings:
        if spelling in text:
            text = text.replace(spelling, MARK)
    return text


def redacted_message(text: str) -> str:
    """Replace registered keys, short ones too, and anything that follows ``Bearer``: for an endpoint's words in a message."""
    text = redacted(text)
    for key in _short:
        text = text.replace(key, MARK)
    return _BEARER.sub(rf"\1{MARK}", text)


def redacted_value(value: Any) -> Any:
    """Replace registered keys in all texts of nested mappings and sequences, the names in mappings included."""
    if not _spellings:
        return value
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted_value(name): redacted_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted_value(item) for item in value]
    return value


def _clean_log_records() -> None:
    """Clean each log record of this process when it is created: filters of a logger miss those of loggers below it."""
    create = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = create(*args, **kwargs)
        try:
            said = record.getMessage()
        except Exception:  # the record's arguments do not fit its text: logging reports that when it is written
            return record
        if (clean := redacted(said)) != said:
            record.msg, record.args = clean, ()
        return record

    logging.setLogRecordFactory(factory)
