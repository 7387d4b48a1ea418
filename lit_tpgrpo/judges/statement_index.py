"""Index of a solution's statements by equation, side and step number, and its steps taken apart for verification."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from lit_tpgrpo.text.equations import Equation, atoms, is_number
from lit_tpgrpo.text.reflections import Reading, Stance

_DRAWS = re.compile(r"\b(?:so|thus|therefore|hence|then|gives?|means|which is)\b", re.IGNORECASE)


class WorkLimitError(Exception):
    """Verification would look at more than it was allowed to. The judge that set the limit catches it."""


@dataclass(frozen=True, slots=True)
class EquationUse:
    """An equation as a step of reasoning: what it takes up, and the terms that it gives a value to.

    ``composed``: of those, the expressions, which are looked for inside others. Not single numbers and names: 100 stands
    in 1000 too.
    """

    key: tuple[str, str]
    used: frozenset[str]
    defined: frozenset[str]
    composed: frozenset[str]


@dataclass(frozen=True, slots=True)
class StepFacts:
    """A step as verification sees it; ``drawn``: the numbers from which it draws a conclusion in words."""

    uses: tuple[EquationUse, ...]
    drawn: frozenset[str]
    terms: int


class StatementIndex:
    """The readings of a solution, indexed.

    Args:
        readings: one for each think step.
        max_work: how many terms ``builds_on`` may look at, over all its calls; WorkLimitError beyond that.
        givens: the equations of the problem. A step that repeats one states nothing of its own.
    """

    def __init__(self, readings: Sequence[Reading], max_work: int, givens: Collection[frozenset[str]] = ()) -> None:
        self.readings = readings
        self.max_work = max_work
        self.givens = givens
        self._work = 0
        self._by_key: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self._by_lhs: defaultdict[str, list[tuple[int, Equation]]] = defaultdict(list)
        self._by_rhs: defaultdict[str, list[tuple[int, Equation]]] = defaultdict(list)
        self._renewed = [{e.key for e in reading.renewed} for reading in readings]
        self._by_number: defaultdict[int, list[int]] = defaultdict(list)
        self._put_back: dict[tuple[str, str], int] = {}  # the last correction that asserts a statement
        for step, reading in enumerate(readings):
            if reading.number is not None:
                self._by_number[reading.number].append(step)
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

    def is_given(self, equation: Equation) -> bool:
        """Whether the problem states the equation."""
        return frozenset(equation.key) in self.givens

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

    def numbered(self, number: int, before: int) -> int | None:
        """The latest step before a step that the solver gave this number."""
        steps = self._by_number.get(number, [])
        found = bisect_left(steps, before)
        return steps[found - 1] if found else None

    def stands_by(self, step: int, equation: Equation) -> bool:
        """Whether a reflection asserts the equation even if it denied it first: "A is wrong, it should be A".

        Not of statements about letters, which are repeated to say why they are wrong.
        """
        return is_number(equation.lhs) and equation.key in self._renewed[step]

    def is_reinstated(self, equation: Equation, after: int) -> bool:
        """Whether a later correction asserts again what the reflection ``after`` had denied: the last word counts."""
        return self._put_back.get(equation.key, -1) > after

    @cached_property
    def parts(self) -> list[StepFacts]:
        """The steps, taken apart for verification."""
        return [_taken_apart(reading) for reading in self.readings]


def _taken_apart(reading: Reading) -> StepFacts:
    uses: list[EquationUse] = []
    for equation in reading.asserted:
        defines = atoms(equation.lhs) == {equation.lhs} and not is_number(equation.lhs)
        used = atoms(equation.rhs if defines else equation.lhs)
        defined = frozenset(equation.key if defines else (equation.rhs,))
        uses.append(
            EquationUse(
                equation.key,
                used,
                defined,
                frozenset(term for term in defined if len(term) > 2 and atoms(term) != {term}),
            )
        )
    in_words = not uses and reading.stance is Stance.NONE and _DRAWS.search(reading.flat)
    drawn = frozenset(atom for atom in atoms(reading.flat) if atom[0].isdigit()) if in_words else frozenset()
    return StepFacts(tuple(uses), drawn, 1 + len(drawn) + sum(1 + len(use.used) for use in uses))


def _latest(stated: Sequence[tuple[int, Equation]], before: int) -> tuple[int, Equation] | None:
    found = bisect_left(stated, before, key=lambda place: place[0])
    return stated[found - 1] if found else None
