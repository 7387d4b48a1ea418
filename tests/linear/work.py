"""The work of a reader, counted: lines of Python, characters that string methods go through, steps of regular expressions.

While a reader runs, its text is a ``CountedText`` (as are all parts of it) and the patterns of our modules are
``CountedPattern``s. A search is charged with the characters that it goes through, for each pattern is linear by itself
(``test_patterns``); what is anchored is charged with its true steps, for it may look far and match nothing.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from tests.linear.counted_regex import Machine

PACKAGES = ("lit_tpgrpo", "benchmarks.readers")


class Work:
    """What was counted; TooMuchWork once it is over the limit."""

    def __init__(self) -> None:
        self.done, self.limit = 0, 10**9

    def add(self, amount: int) -> None:
        self.done += amount
        if self.done > self.limit:
            raise TooMuchWork


class TooMuchWork(BaseException):
    """Not an Exception: readers handle those."""


WORK = Work()


class CountedText(str):
    """A text whose methods are charged with the characters that they go through or give."""

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __iter__(self) -> Iterator[str]:
        return str.__iter__(self)  # a loop over it is counted line by line

    def __getitem__(self, key: Any) -> Any:
        return counted(str.__getitem__(self, key))

    def find(self, part: str, start: int = 0, end: int = sys.maxsize) -> int:
        found = str.find(self, part, start, end)
        WORK.add((found if found >= 0 else min(len(self), end)) - min(start, len(self)) + 1)
        return found

    def rfind(self, part: str, start: int = 0, end: int = sys.maxsize) -> int:
        found = str.rfind(self, part, start, end)
        WORK.add(max(0, min(len(self), end) - max(found, start)) + 1)
        return found

    def __contains__(self, part: str) -> bool:
        return self.find(part) >= 0


def _method(name: str) -> Callable[..., Any]:
    real = getattr(str, name)

    def method(self: str, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        return counted(result if result is not NotImplemented else NotImplemented, len(self))

    return method


NAMES = (
    "__add__ __mod__ __mul__ capitalize casefold count encode expandtabs format isalnum isalpha isascii isdecimal isdigit"
    " islower isspace isupper join lower lstrip partition replace rpartition rsplit rstrip split splitlines strip swapcase"
    " title translate upper"
)
for _name in NAMES.split(" "):
    setattr(CountedText, _name, _method(_name))


def counted(value: Any, amount: int | None = None) -> Any:
    """A text, or texts, as such that are counted; charged with their length, or ``amount``."""
    if isinstance(value, str):
        WORK.add(1 + (len(value) if amount is None else amount))
        return CountedText(value)
    if isinstance(value, list | tuple):
        WORK.add(amount or 0)
        return type(value)(CountedText(v) if isinstance(v, str) else v for v in value)
    WORK.add(amount or 0)
    return value


def _without(name: str) -> Callable[..., Any]:
    real = getattr(str, name)

    def method(self: str, part: str) -> Any:
        made = real(self, part)
        return counted(made) if len(made) < len(self) else self

    return method


for _name in ("removeprefix", "removesuffix"):  # a copy where something is removed
    setattr(CountedText, _name, _without(_name))


class CountedMatch:
    """A match whose groups are counted texts."""

    def __init__(self, match: re.Match[str]) -> None:
        self._match = match

    def __getattr__(self, name: str) -> Any:
        return getattr(self._match, name)

    def __getitem__(self, key: int | str) -> Any:
        return counted(self._match[key])

    def group(self, *keys: int | str) -> Any:
        return counted(self._match.group(*keys))

    def groups(self, default: Any = None) -> Any:
        return counted(self._match.groups(default))


class CountedPattern:
    """A pattern that is charged for what it looks at."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.real = pattern
        self.pattern, self.flags = pattern.pattern, pattern.flags

    def _anchored(self, method: str, text: str, pos: int, end: int) -> CountedMatch | None:
        found = getattr(self.real, method)(text, pos, end)
        with untraced():
            seen = str.__getitem__(text, slice(end))
            machine = _machine(self.real)
            machine.steps, machine.limit = 0, WORK.limit
            ours = machine.match(seen, pos, (lambda e: e == len(seen)) if method == "fullmatch" else None)
        WORK.add(machine.steps)
        assert ours == (found.end() if found else -1), (self.pattern, text[:80])
        return CountedMatch(found) if found else None

    def match(self, text: str, pos: int = 0, end: int = sys.maxsize) -> CountedMatch | None:
        return self._anchored("match", text, pos, end)

    def fullmatch(self, text: str, pos: int = 0, end: int = sys.maxsize) -> CountedMatch | None:
        return self._anchored("fullmatch", text, pos, end)

    def search(self, text: str, pos: int = 0, end: int = sys.maxsize) -> CountedMatch | None:
        found = self.real.search(text, pos, end)
        WORK.add(1 + (found.end() if found else min(len(text), end)) - pos)
        return CountedMatch(found) if found else None

    def finditer(self, text: str, pos: int = 0, end: int = sys.maxsize) -> Iterator[CountedMatch]:
        at = pos
        for found in self.real.finditer(text, pos, end):
            WORK.add(1 + found.end() - at)
            at = found.end()
            yield CountedMatch(found)
        WORK.add(1 + max(0, min(len(text), end) - at))

    def findall(self, text: str, pos: int = 0, end: int = sys.maxsize) -> list[Any]:
        return counted(self.real.findall(text, pos, end), 1 + min(len(text), end) - pos)

    def split(self, text: str, maxsplit: int = 0) -> list[Any]:
        return counted(self.real.split(text, maxsplit), 1 + len(text))

    def sub(self, replacement: Any, text: str, count: int = 0) -> str:
        if callable(replacement):
            made = self.real.sub(lambda match: str(replacement(CountedMatch(match))), text, count)
        else:
            made = self.real.sub(replacement, text, count)
        return counted(made, len(text) + len(made))


@cache
def _machine(pattern: re.Pattern[str]) -> Machine:
    return Machine(pattern)


@cache
def _pattern(pattern: re.Pattern[str]) -> CountedPattern:
    return CountedPattern(pattern)


def _compiled(pattern: Any, flags: int = 0) -> CountedPattern:
    return pattern if isinstance(pattern, CountedPattern) else _pattern(re.compile(pattern, flags))


class _CountedRe(types.SimpleNamespace):
    """In place of the module ``re``, for patterns that are written where they are used."""

    def __getattr__(self, name: str) -> Any:
        if name == "compile":
            return _compiled
        if name in ("sub", "search", "match", "fullmatch", "split", "findall", "finditer"):
            return lambda pattern, *args, flags=0: getattr(_compiled(pattern, flags), name)(*args)
        return getattr(re, name)


@contextmanager
def untraced() -> Iterator[None]:
    earlier = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(earlier)


def _replaced(value: Any, depth: int = 0) -> Any:
    """A value of a module with its patterns replaced, the value itself where it has none."""
    if isinstance(value, re.Pattern):
        return _pattern(value) if isinstance(value.pattern, str) else value
    if value is re:
        return _CountedRe()
    if isinstance(value, tuple | list) and type(value) in (tuple, list) and depth < 3:
        made = [_replaced(v, depth + 1) for v in value]
        return type(value)(made) if any(a is not b for a, b in zip(made, value, strict=True)) else value
    return value


def _cells(function: Any) -> Iterator[Any]:
    for inner in function.values() if isinstance(function, dict) else [function]:
        for cell in getattr(inner, "__closure__", None) or ():
            if isinstance(cell.cell_contents, re.Pattern):
                yield cell


@contextmanager
def counted_patterns() -> Iterator[None]:
    """Replace the patterns of all our modules, in tuples and closures too."""
    undo: list[Callable[[], None]] = []
    for module in [
        m for name, m in sys.modules.items() if name.startswith(PACKAGES) and isinstance(m, types.ModuleType)
    ]:
        for name, value in list(vars(module).items()):
            for cell in _cells(value):
                undo.append(lambda cell=cell, was=cell.cell_contents: setattr(cell, "cell_contents", was))
                cell.cell_contents = _pattern(cell.cell_contents)
            if (made := _replaced(value)) is not value:
                undo.append(lambda module=module, name=name, value=value: setattr(module, name, value))
                setattr(module, name, made)
    try:
        yield
    finally:
        for restore in reversed(undo):
            restore()


def measured(read: Callable[[str], Any], text: str, limit: int = 10**9) -> int:
    """The work of reading a text; TooMuchWork where it is more than ``limit``."""
    WORK.done, WORK.limit = 0, limit

    def trace(frame: types.FrameType, event: str, argument: object) -> Any:
        if not frame.f_globals.get("__name__", "").startswith(PACKAGES):
            return None  # of the libraries, whose loops over text are not ours, and of the counters
        if event == "line":
            WORK.add(1)
        return trace

    earlier = sys.gettrace()
    sys.settrace(trace)
    try:
        read(CountedText(text))
    finally:
        sys.settrace(earlier)
    return WORK.done
