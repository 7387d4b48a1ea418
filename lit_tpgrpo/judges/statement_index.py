"""Index of a solution's statements by equation, side and step number, and the facts of each step for verification."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from lit_tpgrpo.text.equations import Equation, atoms, is_number
from lit_tpgrpo.text.reflections import Reading, Stance

_DRAWS = re.compile(r"\b(?:so|thus|therefore|hence|then|gives?|means|which is)\b", re.IGNORECASE)


class WorkLimitError(Exception):
    """Verification exceeds its work limit. Caught by the judge that set the limit."""


@dataclass(frozen=True, slots=True)
class EquationUse:
    """An equation as a step of reasoning: the terms it uses, and the terms it defines.

    ``composed``: the defined terms that are expressions; these are also searched for inside other expressions. Single
    numbers and names are not, because 100 is also a substring of 1000.
    """

    key: tuple[str, str]
    used: frozenset[str]
    defined: frozenset[str]
    composed: frozenset[str]


@dataclass(frozen=True, slots=True)
class StepFacts:
    """A step as verification sees it.

    ``drawn``: the numbers in a step that draws a conclusion in words. ``terms``: the size of the step, for the work limit.
    """

    uses: tuple[EquationUse, ...]
    drawn: frozenset[str]
    terms: int


class StatementIndex:
    """Index of the statements in the readings of a solution.

    Args:
        readings: one for each think step.
        max_work: how many terms ``builds_on`` may compare, over all its calls; WorkLimitError beyond that.
        givens: the equations of the problem. A step that repeats one makes no new statement.
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
        self._last_correction: dict[tuple[str, str], int] = {}  # the last correction that asserts a statement
        self._last_denial: dict[tuple[str, str], int] = {}  # the last step that calls it wrong
        for step, reading in enumerate(readings):
            if reading.number is not None:
                self._by_number[reading.number].append(step)
            for equation in reading.asserted:
                self._by_lhs[equation.lhs].append((step, equation))
                self._by_rhs[equation.rhs].append((step, equation))
            for key in {e.key for e in reading.asserted}:
                self._by_key[key].append(step)
            if reading.stance is Stance.CORRECTS:
                self._last_correction |= dict.fromkeys(self._renewed[step], step)
            self._last_denial |= dict.fromkeys((e.key for e in reading.denied), step)

    def confirm_reflection(self, step: int, replaced: Iterable[Equation]) -> None:
        """Record a confirmed reflection that does not say "wrong": it asserts its equations and denies what they replace.

        ``find_corrections`` calls it, since only comparison with earlier steps confirms such a reflection.
        """
        for key in self._renewed[step]:
            self._last_correction[key] = max(step, self._last_correction.get(key, step))
        for equation in replaced:
            self._last_denial[equation.key] = max(step, self._last_denial.get(equation.key, step))

    def charge(self, terms: int) -> None:
        """Add to the work done; raise WorkLimitError if it exceeds the limit."""
        self._work += terms
        if self._work > self.max_work:
            raise WorkLimitError

    def is_given(self, equation: Equation) -> bool:
        """Return whether the problem states the equation."""
        return frozenset(equation.key) in self.givens

    def stated(self, equation: Equation, first: int, end: int) -> list[int]:
        """Return the steps in ``[first, end)`` that state the equation, ascending."""
        steps = self._by_key.get(equation.key, [])
        return steps[bisect_left(steps, first) : bisect_left(steps, end)]

    def latest_about(self, lhs: str, before: int) -> tuple[int, Equation] | None:
        """Return the latest statement about ``lhs`` before a step, as (step, equation)."""
        return _latest(self._by_lhs.get(lhs, []), before)

    def latest_result(self, rhs: str, before: int) -> tuple[int, Equation] | None:
        """Return the latest statement before a step whose right side is ``rhs``, as (step, equation)."""
        return _latest(self._by_rhs.get(rhs, []), before)

    def numbered(self, number: int, before: int) -> int | None:
        """Return the latest step before a step that the solver labelled with this number."""
        steps = self._by_number.get(number, [])
        count = bisect_left(steps, before)
        return steps[count - 1] if count else None

    def asserts_again(self, step: int, equation: Equation) -> bool:
        """Return whether a reflection asserts the equation even if it denied it first: "A is wrong, it should be A".

        False for statements about letters: reflections repeat those to say why they are wrong.
        """
        return is_number(equation.lhs) and equation.key in self._renewed[step]

    def is_reinstated(self, equation: Equation, after: int) -> bool:
        """Return whether a correction after the reflection ``after`` asserts the equation again, which no later step denies."""
        last = self._last_correction.get(equation.key, -1)
        return last > after and last >= self._last_denial.get(equation.key, -1)

    @cached_property
    def step_facts(self) -> list[StepFacts]:
        """The facts of each step, for verification."""
        return [_step_facts(reading) for reading in self.readings]


def _step_facts(reading: Reading) -> StepFacts:
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
    count = bisect_left(stated, before, key=lambda statement: statement[0])
    return stated[count - 1] if count else None
