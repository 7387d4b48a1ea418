"""From a reflection back to its error, and from the error forward to what was built on it (paper, Stage I, steps 2-3).

Everything here works on ``Reading``s, one per think step, in order. A ``StatementIndex`` looks statements up in them, so that
tracing takes time in proportion to the text. Verification cannot: it goes through the interval of each correction, and
is charged for what it looks at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from lit_tpgrpo.judges.statement_index import StatementIndex
from lit_tpgrpo.text.equations import Equation, atoms, is_number, literal_value
from lit_tpgrpo.text.reflections import Denial, Stance

POINTING_REACH = 3
"""'It should be 6, not 4' is about one of the last steps: another 4 is another thing."""
SMALL_REACH = 5
"""A number of one or two digits that is not taken up within so many steps is another one when it comes again."""
REDO_REACH = 3
"""'I made a mistake' is explained by one of the next steps, which does a statement over with another result."""
_CHARS_A_TERM = 64
"""Characters of a left side in which looking for an expression is charged like looking at one term."""
ROUNDING = Fraction(1, 100)
"""Decimal numbers that are this near to each other may be the same one, rounded."""


@dataclass(frozen=True, slots=True)
class Source:
    """A step that stated something wrong; ``equation`` is None where it was said in words."""

    step: int
    equation: Equation | None


@dataclass(frozen=True, slots=True)
class ConfirmedReflection:
    """A confirmed reflection and what it corrects. No source: the step corrected itself before it ended."""

    step: int
    sources: tuple[Source, ...]


def find_corrections(ledger: StatementIndex) -> tuple[tuple[ConfirmedReflection, ...], tuple[int, ...]]:
    """The reflections that correct something, with the sources, and those whose object was not found."""
    corrections: list[ConfirmedReflection] = []
    untraced: list[int] = []
    corrected: dict[tuple[str, str], int] = {}  # the step that last corrected a statement
    for step, reading in enumerate(ledger.readings):
        if reading.stance is Stance.CORRECTS:
            sources = _trace_denial(ledger, step, corrected)
        elif reading.stance is not Stance.NONE:
            sources = _trace_replacement(ledger, step)
        else:
            continue
        if sources or reading.withdrew:
            corrections.append(ConfirmedReflection(step, sources))
            corrected |= {s.equation.key: step for s in sources if s.equation is not None}
        elif reading.stance is Stance.CORRECTS:
            untraced.append(step)
    return tuple(corrections), tuple(untraced)


def builds_on(ledger: StatementIndex, source: Source, end: int) -> set[int]:
    """Interval verification: the wrong steps of ``[source.step, end)``, the source first.

    A step is wrong if it states the wrong equation again or if an equation of it takes up a value, name or expression
    whose latest definition in the interval is wrong; its own results are then wrong as well.

    Raises:
        WorkLimitError: there is more to look at than the ledger allows.
    """
    wrong_steps = {source.step}
    if source.equation is None:
        return wrong_steps
    wrong: dict[str, int] = {}  # what has a wrong value, and the step that last gave it or took it up
    wrong_terms: set[str] = set()
    for step, part in enumerate(ledger.parts[source.step : end], start=source.step):
        ledger.charge(part.terms)
        for use in part.uses:
            taken = [term for term in use.used if term in wrong and step - wrong[term] <= _reach(term)]
            bad = use.key == source.equation.key or bool(taken)
            if not bad and wrong_terms:
                ledger.charge(len(wrong_terms) * (1 + len(use.key[0]) // _CHARS_A_TERM))
                bad = any(term in use.key[0] for term in wrong_terms)
            if bad:
                wrong |= dict.fromkeys((*use.defined, *taken), step)
                wrong_terms |= use.composed
                wrong_steps.add(step)
            else:
                for term in use.defined:
                    wrong.pop(term, None)
                wrong_terms -= use.composed
        if any(term in wrong and step - wrong[term] <= _reach(term) for term in part.drawn):
            wrong_steps.add(step)
    return wrong_steps


def _reach(term: str) -> int:
    """For how many steps a term is taken for the one that was wrong: small numbers recur by chance."""
    return SMALL_REACH if len(term) <= 2 and term.isdigit() else sys.maxsize


def _trace_denial(ledger: StatementIndex, step: int, corrected: Mapping[tuple[str, str], int]) -> tuple[Source, ...]:
    """What a step that says "wrong" means, the most explicit sign first.

    Only what can be quoted is traced: a step by its number, a statement, a result, a statement that is done over. "That is
    wrong" by itself blames nobody, for in real chains it more often than not turns out to be right after all.
    """
    reading = ledger.readings[step]
    named = [Source(s, None) for number in reading.blamed if (s := ledger.numbered(number, step)) is not None]
    if named:
        return tuple(named)
    denied = {e.key: e for e in reading.denied}.values()
    quoted = [s for e in denied for s in _statements(ledger, e, corrected.get(e.key, 0), step)]
    if quoted or reading.withdrew:
        return tuple(quoted)
    valued = [s for value in reading.denied_values if (s := _with_result(ledger, value, step))]
    if valued:
        return tuple(valued)
    replaced = _trace_replacement(ledger, step)
    if replaced or reading.denial is Denial.QUOTED:
        return replaced
    found = _redone(ledger, step)
    return (found,) if found else ()


def _statements(ledger: StatementIndex, equation: Equation, first: int, before: int) -> list[Source]:
    """The steps that state the equation, the earliest first, back to its previous correction (``first``).

    Between numbers an equation is wrong wherever it stands; with names only its latest statement is meant. A bare number
    on the left (``2 = 1440``) is no statement, but what is left of one that was not understood; what the problem gives is no
    error of a step.
    """
    if literal_value(equation.lhs) is not None or ledger.is_given(equation):
        return []
    found = [Source(step, equation) for step in ledger.stated(equation, first, before)]
    return found if is_number(equation.lhs) else found[-1:]


def _with_result(ledger: StatementIndex, value: str, before: int) -> Source | None:
    """The latest step that comes to this value by an equation; a single digit, which recurs, only a short way back."""
    stated = ledger.latest_result(value, before)
    near = stated is not None and stated[0] >= before - POINTING_REACH
    return Source(*stated) if stated is not None and (near or len(value) > 1) else None


def _trace_replacement(ledger: StatementIndex, step: int) -> tuple[Source, ...]:
    """The latest earlier statements that the step's new equations contradict: same left side, another number.

    A step that does not say "wrong" contradicts only statements about numbers, and no step contradicts one about a mere
    letter, which may have been given another meaning or be tried with another value.
    """
    reading = ledger.readings[step]
    sources: list[Source] = []
    for equation in reading.renewed:
        if is_number(equation.lhs) or (reading.stance is Stance.CORRECTS and _compound(equation.lhs)):
            found = ledger.latest_about(equation.lhs, step)
            if found and not ledger.is_given(found[1]) and _contradict(found[1], equation):
                sources.append(Source(*found))
    return tuple(sources)


def _contradict(one: Equation, other: Equation) -> bool:
    """Whether two statements about the same left side cannot both be right: their right sides are different bare numbers.

    Not so for ``1/2`` and ``0.5``, for ``0.33`` and ``0.333`` (rounded), for anything unevaluated, for congruences (another
    modulus gives another number) and for a bare number on the left, which is left over from something not understood.
    """
    a, b = literal_value(one.rhs), literal_value(other.rhs)
    if a is None or b is None or literal_value(one.lhs) is not None or one.congruence or other.congruence:
        return False
    rounded = "." in one.rhs + other.rhs and abs(a - b) <= ROUNDING * max(abs(a), abs(b))
    return a != b and not rounded


def _redone(ledger: StatementIndex, step: int) -> Source | None:
    """The earliest statement that the steps after an unexplained admission do over with another result."""
    for reading in ledger.readings[step + 1 : step + 1 + REDO_REACH]:
        for equation in reading.asserted:
            found = ledger.latest_about(equation.lhs, step) if _compound(equation.lhs) else None
            if found and not ledger.is_given(found[1]) and _contradict(found[1], equation):
                return Source(*found)
    return None


def _compound(lhs: str) -> bool:
    """Whether an expression is more than a name, which may be given another meaning or be tried with another value."""
    return is_number(lhs) or atoms(lhs) != {lhs}
