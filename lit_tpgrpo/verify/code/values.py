"""Plain data between two sandboxed processes, as lines of JSON that keep Python's types.

What is decoded has exactly the builtin types, whatever was encoded: no method of a solution's class comes along, so none can
answer a test's ``==``. Runs in sandboxed processes: standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Plain = Any


class NotPlain(TypeError):
    """The value is not plain data, or nested too deeply."""


def encode(value: Plain) -> bytes:
    """Return a line of JSON for plain data: numbers, texts, bytes, None, and lists, tuples, sets and dicts of them.

    Raises:
        NotPlain: there is something else in it.

    >>> decode(encode([(1, 2.5), {"a": {3}}]))
    [(1, 2.5), {'a': {3}}]
    """
    try:
        return json.dumps(_tagged(value)).encode() + b"\n"
    except RecursionError as error:
        raise NotPlain("expected data that is nested less deeply") from error


def decode(line: bytes) -> Plain:
    """Return the value of a line of ``encode``.

    Raises:
        NotPlain: the line is something else.
    """
    try:
        return _plain(json.loads(line))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise NotPlain(f"expected a line of plain data, got {line[:80]!r}") from error


def _tagged(value: Any) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [_tagged(item) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[_tagged(k), _tagged(v)] for k, v in dict.items(value)]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": list(value)}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [_tagged(item) for item in value]}
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # an array or number of numpy
        return _tagged(value.tolist())
    raise NotPlain(f"expected plain data, got {type(value).__name__}")


_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": lambda items: tuple(map(_plain, items)),
    "set": lambda items: set(map(_plain, items)),
    "frozenset": lambda items: frozenset(map(_plain, items)),
    "dict": lambda items: {_plain(key): _plain(value) for key, value in items},
    "bytes": bytes,
    "complex": lambda parts: complex(*parts),
}


def _plain(tagged: Any) -> Any:
    if isinstance(tagged, list):
        return [_plain(item) for item in tagged]
    if isinstance(tagged, dict):
        ((kind, content),) = tagged.items()
        return _BUILDERS[kind](content)
    return tagged
