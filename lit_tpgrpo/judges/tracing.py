"""From a reflection back to its error, and from the error forward to what was built on it (paper, Stage I, steps 2-3).

Everything here works on ``Reading``s, one per think step, in order. A ``Ledger`` looks statements up in them, so that
tracing takes time in proportion to the text. Verification cannot: it goes through the interval of each correction, and
is charged for what it looks at.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lit_tpgrpo.text.equations import Equation, atoms, is_number, literal_value
from lit_tpgrpo.text.reflections import Denial, Reading, Stance

POINTING_REACH = 3
"""'That is wrong' refers to one of the last steps."""
REDO_REACH = 3
"""'I made a mistake' is explained by one of the next steps, which does a statement over with another result."""

_DRAWS = re.compile(r"\b(?:so|thus|therefore|hence|then|gives?|means|which is)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """A step that stated something wrong; ``equation`` is None where it was said in words."""

    step: int
    equation: Equation | None


@dataclass(frozen=True, slots=True)
class Correction:
    """A confirmed reflection and what it corrects. No source: the step corrected itself before it ended."""

    step: int
    sources: tuple[Source, ...]


class WorkLimitError(Exception):
    """Verification would look at more than it was allowed to. The judge that set the limit catches it."""


@dataclass(frozen=True, slots=True)
class _Use:
    """An equation as a step of reasoning: what it takes up, and the terms that it gives a value to.

    ``long``: of those, the ones that are long enough to be looked for inside other expressions.
    """

    key: tuple[str, str]
    used: frozenset[str]
    defined: frozenset[str]
    long: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Part:
    """A step as verification sees it; ``drawn``: the numbers from which it draws a conclusion in words."""

    uses: tuple[_Use, ...]
    drawn: frozenset[str]
    terms: int


class Ledger:
    """The readings of a solution, and where what stands in them.

    Args:
        readings: one for each think step.
        max_work: how many terms ``builds_on`` may look at, over all its calls; WorkLimitError beyond that.
    """

    def __init__(self, readings: Sequence[Reading], max_work: int) -> None:
        self.readings = readings
        self.max_work = max_work
        self._work = 0
        self._by_key: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self._by_lhs: defaultdict[str, list[tuple[int, Equation]]] = defaultdict(list)
        self._by_rhs: defaultdict[str, list[tuple[int, Equation]]] = defaultdict(list)
        self._renewed = [{e.key for e in reading.renewed} for reading in readings]
        self._put_back: dict[tuple[str, str], int] = {}  # the last correction that asserts a statement
        for step, reading in enumerate(readings):
            for equation in reading.asserted:
                self._by_lhs[equation.lhs].append((step, equation))
                self._by_rhs[equation.rhs].append((step, equation))
            for key in {e.key for e in reading.asserted}:
                self._by_key[key].append(step)
            if reading.stance is Stance.CORRECTS:
                self._put_back |= dict.fromkeys(self._renewed[step], step)

    def charge(self, terms: int) -> None:
        """Count work; raises WorkLimitError once it is more than was allowed."""
        self._work += terms
        if self._work > self.max_work:
            raise WorkLimitError

    def stated(self, equation: Equation, first: int, end: int) -> list[int]:
        """The steps of ``[first, end)`` that state the equation."""
        steps = self._by_key.get(equation.key, [])
        return steps[bisect_left(steps, first) : bisect_left(steps, end)]

    def latest_about(self, lhs: str, before: int) -> tuple[int, Equation] | None:
        """The latest statement about ``lhs`` before a step."""
        return _latest(self._by_lhs.get(lhs, []), before)

    def latest_result(self, rhs: str, before: int) -> tuple[int, Equation] | None:
        """The latest statement before a step that comes to ``rhs``."""
        return _latest(self._by_rhs.get(rhs, []), before)

    def latest_mention(self, atom: str, before: int) -> int | None:
        """The latest step before a step in which the number or name stands at all."""
        steps = self._mentions.get(atom, [])
        found = bisect_left(steps, before)
        return steps[found - 1] if found else None

    def stands_by(self, step: int, equation: Equation) -> bool:
        """Whether a reflection asserts the equation, be it after denying it: "A is wrong, it should be A"."""
        return equation.key in self._renewed[step]

    def is_reinstated(self, equation: Equation, after: int) -> bool:
        """Whether a later correction asserts again what the reflection ``after`` had denied: the last word counts."""
        return self._put_back.get(equation.key, -1) > after

    @cached_property
    def parts(self) -> list[_Part]:
        """The steps, taken apart for verification."""
        return [_taken_apart(reading) for reading in self.readings]

    @cached_property
    def _mentions(self) -> dict[str, list[int]]:
        mentions: defaultdict[str, list[int]] = defaultdict(list)
        for step, reading in enumerate(self.readings):
            for atom in atoms(reading.flat):
                mentions[atom].append(step)
        return mentions


def find_corrections(ledger: Ledger) -> tuple[tuple[Correction, ...], tuple[int, ...]]:
    """The reflections that correct something, with the sources, and those whose object was not found."""
    corrections: list[Correction] = []
    untraced: list[int] = []
    corrected: dict[tuple[str, str], int] = {}  # the step that last corrected a statement
    for step, reading in enumerate(ledger.readings):
        if reading.stance is Stance.CORRECTS:
            sources = _trace_denial(ledger, step, corrected)
        elif reading.stance is Stance.OPEN:
            sources = _trace_replacement(ledger, step)
        else:
            continue
        if sources or reading.withdrew:
            corrections.append(Correction(step, sources))
            corrected |= {s.equation.key: step for s in sources if s.equation is not None}
        elif reading.stance is Stance.CORRECTS:
            untraced.append(step)
    return tuple(corrections), tuple(untraced)


def builds_on(ledger: Ledger, source: Source, end: int) -> set[int]:
    """Interval verification: the wrong steps of ``[source.step, end)``, the source first.

    A step is wrong if it states the wrong equation again or if an equation of it takes up a value, name or expression
    whose latest definition in the interval is wrong; its own results are then wrong as well.

    Raises:
        WorkLimitError: there is more to look at than the ledger allows.
    """
    wrong_steps = {source.step}
    if source.equation is None:
        return wrong_steps
    wrong: set[str] = set()
    wrong_terms: set[str] = set()
    for step, part in enumerate(ledger.parts[source.step : end], start=source.step):
        ledger.charge(part.terms)
        for use in part.uses:
            bad = use.key == source.equation.key or not wrong.isdisjoint(use.used)
            if not bad and wrong_terms:
                ledger.charge(len(wrong_terms))
                bad = any(term in use.key[0] for term in wrong_terms)
            if bad:
                wrong |= use.defined
                wrong_terms |= use.long
                wrong_steps.add(step)
            else:
                wrong -= use.defined
                wrong_terms -= use.long
        if not wrong.isdisjoint(part.drawn):
            wrong_steps.add(step)
    return wrong_steps


def _taken_apart(reading: Reading) -> _Part:
    uses: list[_Use] = []
    for equation in reading.asserted:
        defines = atoms(equation.lhs) == {equation.lhs} and not is_number(equation.lhs)
        used = atoms(equation.rhs if defines else equation.lhs)
        defined = frozenset(equation.key if defines else (equation.rhs,))
        uses.append(_Use(equation.key, used, defined, frozenset(term for term in defined if len(term) > 2)))
    in_words = not uses and reading.stance is Stance.NONE and _DRAWS.search(reading.flat)
    drawn = frozenset(atom for atom in atoms(reading.flat) if atom[0].isdigit()) if in_words else frozenset()
    return _Part(tuple(uses), drawn, 1 + len(drawn) + sum(1 + len(use.used) for use in uses))


def _latest(stated: Sequence[tuple[int, Equation]], before: int) -> tuple[int, Equation] | None:
    found = bisect_left(stated, before, key=lambda place: place[0])
    return stated[found - 1] if found else None


def _trace_denial(ledger: Ledger, step: int, corrected: Mapping[tuple[str, str], int]) -> tuple[Source, ...]:
    """What a step that says "wrong" means, the most explicit sign first."""
    reading = ledger.readings[step]
    denied = {e.key: e for e in reading.denied}.values()
    quoted = [s for e in denied for s in _statements(ledger, e, corrected.get(e.key, 0), step)]
    if quoted or reading.withdrew:
        return tuple(quoted)
    valued = [s for value in reading.denied_values if (s := _with_value(ledger, value, step))]
    if valued:
        return tuple(valued)
    replaced = _trace_replacement(ledger, step)
    if replaced:
        return replaced
    results = [s for e in denied if (s := _with_value(ledger, e.rhs, step, POINTING_REACH))]
    if results or reading.denial is Denial.QUOTED:
        return tuple(results)
    if reading.denial is Denial.POINTING:
        # "That can't be right … 8 * 2 = 6" which stands there already: the doubt ended where it began.
        found = None if _restates(ledger, step) else _recent(ledger.readings, step)
    else:
        found = _redone(ledger, step)
    return (found,) if found else ()


def _statements(ledger: Ledger, equation: Equation, first: int, before: int) -> list[Source]:
    """The steps that state the equation, the earliest first, back to its previous correction (``first``).

    Between numbers an equation is wrong wherever it stands; with names only its latest statement is meant.
    """
    found = [Source(step, equation) for step in ledger.stated(equation, first, before)]
    return found if is_number(equation.lhs) else found[-1:]


def _with_value(ledger: Ledger, value: str, before: int, reach: int | None = None) -> Source | None:
    """The latest step that comes to this value, or else the latest that mentions it."""
    first = 0 if reach is None else before - reach
    stated = ledger.latest_result(value, before)
    if stated is not None and stated[0] >= first:
        return Source(*stated)
    mentioned = ledger.latest_mention(value, before)
    return Source(mentioned, None) if mentioned is not None and mentioned >= first else None


def _trace_replacement(ledger: Ledger, step: int) -> tuple[Source, ...]:
    """The latest earlier statements that the step's new equations contradict: same left side, another number.

    A step that does not say "wrong" contradicts only statements about numbers: a letter may have been given another
    meaning or be tried with another value.
    """
    reading = ledger.readings[step]
    sources: list[Source] = []
    for equation in reading.renewed:
        if reading.stance is Stance.CORRECTS or is_number(equation.lhs):
            found = ledger.latest_about(equation.lhs, step)
            if found and _contradict(found[1], equation):
                sources.append(Source(*found))
    return tuple(sources)


def _contradict(one: Equation, other: Equation) -> bool:
    """Whether the right sides are different bare numbers; ``1/2`` and ``0.5`` are not, nor is anything unevaluated."""
    values = literal_value(one.rhs), literal_value(other.rhs)
    return None not in values and values[0] != values[1]


def _restates(ledger: Ledger, step: int) -> bool:
    """Whether the new equations of a step all stand in earlier steps as they are."""
    renewed = ledger.readings[step].renewed
    return bool(renewed) and all(ledger.stated(e, 0, step) for e in renewed)


def _recent(readings: Sequence[Reading], before: int) -> Source | None:
    """What "that" points at: the last equation of the last few steps, or else the last step."""
    for step in range(before - 1, max(-1, before - 1 - POINTING_REACH), -1):
        if readings[step].asserted:
            return Source(step, readings[step].asserted[-1])
    return Source(before - 1, None) if before else None


def _redone(ledger: Ledger, step: int) -> Source | None:
    """The earliest statement that the steps after an unexplained admission do over with another result."""
    for reading in ledger.readings[step + 1 : step + 1 + REDO_REACH]:
        for equation in reading.asserted:
            found = ledger.latest_about(equation.lhs, step)
            if found and _contradict(found[1], equation):
                return Source(*found)
    return None
