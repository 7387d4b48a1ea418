"""A backtracking matcher that counts its steps, over the parse trees of the standard library's ``re``.

``re`` itself says nothing of the work it does, and time depends on the machine. This matcher tries what ``re`` tries, in the
same order, without its shortcuts: one step for each node and character that is looked at. ``count`` checks that it ends
where ``re`` ends, so that it cannot quietly count something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from re import _constants as sre  # pyright: ignore[reportAttributeAccessIssue]
from re import _parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

Continue = Callable[[int], int]
"""What follows in the pattern: the end of the match from a place of the text, -1 where there is none."""
Part = tuple[str, Any]
"""``char`` with a test of a character, ``place`` with a test of a position, ``more`` with a matcher that backtracks."""


class TooManySteps(Exception):
    """More steps than were allowed."""


class Machine:
    """One pattern. ``steps`` counts over all its uses; TooManySteps beyond ``limit``."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        tree = _parser.parse(pattern.pattern, pattern.flags)
        self.steps, self.limit = 0, 10**9
        self._text, self._groups = "", {}
        self._run = self._sequence(tree, tree.state.flags)

    def match(self, text: str, start: int = 0, allowed: Callable[[int], bool] | None = None) -> int:
        """The end of the match that begins at ``start``, -1 for none; ``allowed`` says which ends are good."""
        self._text, self._groups = text, {}
        return self._run(start, lambda end: end if allowed is None or allowed(end) else -1)

    def search(self, text: str, start: int, advance: bool) -> tuple[int, int] | None:
        """The first match from ``start``; with ``advance`` not an empty one right there."""
        for begin in range(start, len(text) + 1):
            self._tick()
            end = self.match(text, begin, (lambda e, b=begin: e != b) if advance and begin == start else None)
            if end >= 0:
                return begin, end
        return None

    def _tick(self) -> None:
        self.steps += 1
        if self.steps > self.limit:
            raise TooManySteps

    def _sequence(self, tree: Any, flags: int) -> Callable[[int, Continue], int]:
        parts = [self._part(op, value, flags) for op, value in tree]
        last = len(parts) - 1

        def run(at: int, i: int, then: Continue) -> int:
            while at <= last:
                kind, test = parts[at]
                self._tick()
                at += 1
                if kind == "char":
                    if i == len(self._text) or not test(self._text[i]):
                        return -1
                    i += 1
                elif kind == "place":
                    if not test(i):
                        return -1
                elif at > last:
                    return test(i, then)
                else:
                    return test(i, partial(continued, at, then))
            return then(i)

        def continued(at: int, then: Continue, i: int) -> int:
            return run(at, i, then)

        return lambda i, then: run(0, i, then)

    def _part(self, op: Any, value: Any, flags: int) -> Part:
        if op in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN, sre.RANGE, sre.CATEGORY):
            return "char", cache(_character(op, value, flags))
        if op is sre.AT:
            return "place", lambda i: _at(value, flags, self._text, i)
        if op in (sre.ASSERT, sre.ASSERT_NOT):
            return "place", self._look_around(value, flags, op is sre.ASSERT)
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            return "more", self._repeat(op, *value, flags)
        return "more", {
            sre.SUBPATTERN: self._group,
            sre.BRANCH: self._branch,
            sre.ATOMIC_GROUP: self._atomic,
            sre.GROUPREF: self._reference,
        }[op](value, flags)

    def _look_around(self, value: Any, flags: int, wanted: bool) -> Callable[[int], bool]:
        direction, tree = value
        inner = self._sequence(tree, flags)
        back = tree.getwidth()[0] if direction < 0 else 0

        def test(i: int) -> bool:
            found = i >= back and inner(i - back, lambda j: j if not back or j == i else -1) >= 0
            return found is wanted

        return test

    def _group(self, value: Any, flags: int) -> Callable[[int, Continue], int]:
        name, added, removed, tree = value
        inner = self._sequence(tree, (flags | added) & ~removed)

        def run(i: int, then: Continue) -> int:
            def closed(j: int) -> int:
                before = self._groups.get(name)
                self._groups[name] = (i, j)
                end = then(j)
                if end < 0:
                    self._groups[name] = before
                return end

            return inner(i, closed)

        return run

    def _branch(self, value: Any, flags: int) -> Callable[[int, Continue], int]:
        branches = [self._sequence(tree, flags) for tree in value[1]]

        def run(i: int, then: Continue) -> int:
            for branch in branches:
                self._tick()
                if (end := branch(i, then)) >= 0:
                    return end
            return -1

        return run

    def _atomic(self, value: Any, flags: int) -> Callable[[int, Continue], int]:
        inner = self._sequence(value, flags)

        def run(i: int, then: Continue) -> int:
            end = inner(i, lambda j: j)
            return end if end < 0 else then(end)

        return run

    def _reference(self, value: Any, flags: int) -> Callable[[int, Continue], int]:
        def run(i: int, then: Continue) -> int:
            span = self._groups.get(value)
            part = self._text[slice(*span)] if span else None
            self.steps += len(part or "")
            return then(i + len(part)) if part is not None and self._text.startswith(part, i) else -1

        return run

    def _repeat(self, op: Any, least: int, most: int, tree: Any, flags: int) -> Callable[[int, Continue], int]:
        if len(tree) == 1 and (part := self._part(*tree[0], flags))[0] == "char":
            return self._run_of_characters(op, least, most, part[1])
        inner = self._sequence(tree, flags)

        def possessive(i: int, then: Continue) -> int:
            count = 0
            while count < most:
                self._tick()
                end = inner(i, lambda j: j)
                if end < 0 or (end == i and count >= least):
                    break
                i, count = end, count + 1
            return then(i) if count >= least else -1

        def greedy(i: int, then: Continue, count: int = 0, before: int = -1) -> int:
            self._tick()
            if count < least or (count < most and i != before):
                end = inner(i, lambda j: greedy(j, then, count + 1, i))
                if end >= 0:
                    return end
            return then(i) if count >= least else -1

        def lazy(i: int, then: Continue, count: int = 0, before: int = -1) -> int:
            self._tick()
            if count >= least and (end := then(i)) >= 0:
                return end
            return inner(i, lambda j: lazy(j, then, count + 1, i)) if count < most and i != before else -1

        return {sre.MAX_REPEAT: greedy, sre.MIN_REPEAT: lazy, sre.POSSESSIVE_REPEAT: possessive}[op]

    def _run_of_characters(self, op: Any, least: int, most: int, test: Callable[[str], bool]) -> Any:
        def longest(i: int, most: int) -> int:
            count = 0
            while count < most and i + count < len(self._text) and test(self._text[i + count]):
                self._tick()
                count += 1
            return count

        def run(i: int, then: Continue) -> int:
            if op is sre.MIN_REPEAT:
                count = longest(i, least)
                while count >= least:
                    self._tick()
                    if (end := then(i + count)) >= 0:
                        return end
                    if count >= most or not longest(i + count, 1):
                        break
                    count += 1
                return -1
            count = longest(i, most)
            while count >= least:
                self._tick()
                end = then(i + count)
                if end >= 0 or op is sre.POSSESSIVE_REPEAT:
                    return end
                count -= 1
            return -1

        return run


def _character(op: Any, value: Any, flags: int) -> Callable[[str], bool]:
    """A test of a character."""
    if op is sre.ANY:
        return lambda c: bool(flags & re.DOTALL) or c != "\n"
    if op is sre.IN:
        negated = value[0][0] is sre.NEGATE
        tests = [_character(*item, flags) for item in value[negated:]]
        return lambda c: any(test(c) for test in tests) is not negated
    if op is sre.CATEGORY:
        return _category(value, flags)
    low, high = value if op is sre.RANGE else (value, value)
    forms = (lambda c: {c, c.lower(), c.upper()}) if flags & re.IGNORECASE else (lambda c: {c})

    def within(c: str) -> bool:
        return any(len(form) == 1 and low <= ord(form) <= high for form in forms(c)) is not (op is sre.NOT_LITERAL)

    return within


def _category(value: Any, flags: int) -> Callable[[str], bool]:
    name = str(value).removeprefix("CATEGORY_")
    wanted = not name.startswith("NOT_")
    test = {"DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": lambda c: c.isalnum() or c == "_"}[
        name.removeprefix("NOT_")
    ]
    ascii_only = bool(flags & re.ASCII)
    return lambda c: (bool(test(c)) and not (ascii_only and not c.isascii())) is wanted


def _at(value: Any, flags: int, text: str, i: int) -> bool:
    """Whether a position is the place that an anchor asks for."""
    lines = bool(flags & re.MULTILINE)
    word = [0 <= j < len(text) and (text[j].isalnum() or text[j] == "_") for j in (i - 1, i)]
    match value:
        case sre.AT_BEGINNING | sre.AT_BEGINNING_STRING:
            return i == 0 or (lines and value is sre.AT_BEGINNING and text[i - 1] == "\n")
        case sre.AT_END:
            return i == len(text) or (text[i] == "\n" and (lines or i == len(text) - 1))
        case sre.AT_END_STRING:
            return i == len(text)
        case sre.AT_BOUNDARY:
            return word[0] is not word[1]
        case sre.AT_NON_BOUNDARY:
            return word[0] is word[1]
    raise NotImplementedError(value)


@cache
def machine(pattern: re.Pattern[str]) -> Machine:
    """The machine of a pattern; making one takes longer than most of its uses."""
    return Machine(pattern)


def count(pattern: re.Pattern[str], method: str, text: str, pos: int = 0, limit: int = 10**9) -> int:
    """The steps of ``pattern.method(text, pos)``: ``match``, ``fullmatch``, ``search`` or, over all matches, ``finditer``.

    Raises:
        TooManySteps: there are more than ``limit``.
        AssertionError: the matcher does not end where ``re`` ends.
    """
    counted = machine(pattern)
    counted.steps, counted.limit = 0, limit
    if method in ("match", "fullmatch"):
        ours = counted.match(text, pos, (lambda end: end == len(text)) if method == "fullmatch" else None)
        real = getattr(pattern, method)(text, pos)  # after ours, which ends at its limit
        assert ours == (real.end() if real else -1), (pattern.pattern, text[:80], ours)
        return counted.steps
    start, advance = pos, False
    matches = pattern.finditer(text, pos)
    while True:
        span = counted.search(text, start, advance)
        found = next(matches, None)  # after ours, which ends at its limit
        assert span == (found.span() if found else None), (pattern.pattern, text[:80], span)
        if found is None or method == "search":
            return counted.steps
        start, advance = found.end(), found.start() == found.end()
