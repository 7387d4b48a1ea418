"""Texts on which a careless reader takes too long: repeats of what patterns look for, with beginnings and no end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _constants as sre  # pyright: ignore[reportAttributeAccessIssue]
from re import _parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

from benchmarks.readers import PIECES as UNITS

__all__ = ["UNITS", "of_pattern"]


def of_pattern(pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The characters and classes that a pattern names, and a text for each of its parts and beginnings."""
    characters: dict[str, None] = {}
    texts: dict[str, None] = {}
    _walk(_parser.parse(pattern.pattern, pattern.flags), characters, texts)
    return list(characters), [text for text in texts if text]


def _walk(tree: Any, characters: dict[str, None], texts: dict[str, None]) -> None:
    beginning = ""
    for op, value in tree:
        part = _example(op, value)
        beginning += part
        texts |= dict.fromkeys((part, beginning))
        if op is sre.LITERAL:
            characters[chr(value)] = None
        elif op is sre.IN:
            characters |= dict.fromkeys(_members(value))
        for inner in _inside(op, value):
            _walk(inner, characters, texts)


def _inside(op: Any, value: Any) -> Iterator[Any]:
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        yield value[2]
    elif op is sre.SUBPATTERN:
        yield value[3]
    elif op is sre.ATOMIC_GROUP:
        yield value
    elif op is sre.BRANCH:
        yield from value[1]
    elif op in (sre.ASSERT, sre.ASSERT_NOT):
        yield value[1]


def _members(items: Any) -> list[str]:
    """A character for each member of a class."""
    classes = {"DIGIT": "1", "SPACE": " ", "WORD": "a", "NOT_DIGIT": "a", "NOT_SPACE": "a", "NOT_WORD": ","}
    found = []
    for op, value in items:
        if op is sre.LITERAL:
            found.append(chr(value))
        elif op is sre.RANGE:
            found.append(chr(value[0]))
        elif op is sre.CATEGORY:
            found.append(classes[str(value).removeprefix("CATEGORY_")])
    return found


def _example(op: Any, value: Any) -> str:
    """A text that a part of a pattern matches, as far as it says."""
    if op is sre.LITERAL:
        return chr(value)
    if op in (sre.ANY, sre.NOT_LITERAL):
        return "a"
    if op is sre.IN:
        members = _members(value)
        return next(c for c in "a1, ~" if c not in members) if value[0][0] is sre.NEGATE else members[0]
    if op in (sre.ASSERT, sre.ASSERT_NOT):
        return ""
    inner = next(_inside(op, value), ())
    repeats = max(value[0], 1) if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT) else 1
    return "".join(_example(*item) for item in inner) * repeats
