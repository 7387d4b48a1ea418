"""Redact API keys in everything that this process writes: files, logs and messages.

An endpoint may repeat the key that it was sent, in a reply, an error or a header. Code that reads a key from the environment
registers it here. An endpoint's text is redacted on arrival, and text is redacted again when it is written, because a key
spelled with escapes is recognised only after decoding.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from urllib.parse import quote

MARK = "[key]"
SHORTEST = 8
"""Minimum length of a key that is redacted everywhere. Shorter ones, such as the ``EMPTY`` often given to local servers, may
be words of a reply: they are redacted only in messages about an endpoint."""
_BEARER = re.compile(r"(Bearer\s+)[^\s\"'\\,}]+", re.IGNORECASE)
_spellings: list[str] = []  # the keys as they are, JSON-escaped and URL-escaped; longest first
_short: list[str] = []


def register_secret(key: str | None) -> None:
    """Register a key for redaction in everything that this process writes from now on."""
    if not key or key in _spellings or key in _short:
        return
    if len(key) < SHORTEST:
        if len(key) >= 4:
            _short.append(key)
        return
    if not _spellings:
        _redact_log_records()
    spelled = {
        key,
        json.dumps(key)[1:-1],
        json.dumps(key, ensure_ascii=False)[1:-1],
        quote(key, safe=""),
        repr(key)[1:-1],
    }
    _spellings[:] = sorted({*_spellings, *spelled}, key=lambda s: (-len(s), s))


def redacted(text: str) -> str:
    """Replace registered keys in a text by ``MARK``."""
    for spelling in _spellings:
        if spelling in text:
            text = text.replace(spelling, MARK)
    return text


def redacted_message(text: str) -> str:
    """Replace registered keys, short ones too, and any token after ``Bearer``: for an endpoint's text quoted in a message."""
    text = redacted(text)
    for key in _short:
        text = text.replace(key, MARK)
    return _BEARER.sub(rf"\1{MARK}", text)


def redacted_value(value: Any) -> Any:
    """Replace registered keys in all strings of nested mappings (keys and values) and sequences."""
    if not _spellings:
        return value
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted_value(name): redacted_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted_value(item) for item in value]
    return value


def _redact_log_records() -> None:
    """Redact each log record of this process when it is created: a logger's filters do not see records of its children."""
    create = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = create(*args, **kwargs)
        _redact_traces(record)
        try:
            message = record.getMessage()
        except Exception:  # the record's arguments do not match its format: logging reports that when it is written
            return record
        if (clean := redacted(message)) != message:
            record.msg, record.args = clean, ()
        return record

    logging.setLogRecordFactory(factory)


def _redact_traces(record: logging.LogRecord) -> None:
    """Redact the traceback, which formatters take from ``exc_text`` where it is set; one without a key is left to them."""
    if record.exc_info:
        text = logging.Formatter().formatException(record.exc_info)
        if (clean := redacted(text)) != text:
            record.exc_text = clean
    if record.stack_info:
        record.stack_info = redacted(record.stack_info)
