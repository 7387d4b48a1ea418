"""Tracing a reflection back to the error it corrects, and verifying the steps built on that error (paper, Stage I, 2-3).

Everything here works on ``Reading``s, one per think step, in order. ``StatementIndex`` finds statements in them, so tracing
is linear in the text. Verification is not: it reads the interval of each correction, and its work is limited.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from lit_tpgrpo.judges.statement_index import StatementIndex
from lit_tpgrpo.text.equations import Equation, atoms, is_number, literal_value
from lit_tpgrpo.text.reflections import Denial, Reading, Stance

POINTING_REACH = 3
"""Steps. 'It should be 6, not 4' refers to one of the last steps; an earlier 4 is unrelated."""
SMALL_REACH = 5
"""Steps. A number of one or two digits that was not used for this many steps is unrelated when it occurs again."""
REDO_REACH = 3
"""Steps. 'I made a mistake' is explained by one of the next steps, which redoes a statement with another result."""
_CHARS_A_TERM = 64
"""Searching this many characters of a left side for an expression counts as much work as comparing one term."""
ROUNDING = Fraction(1, 100)
"""Relative difference up to which two decimal numbers may be the same number, rounded."""


@dataclass(frozen=True, slots=True)
class Source:
    """A step that stated something wrong; ``equation`` is None if the step is identified by its number only."""

    step: int
    equation: Equation | None


@dataclass(frozen=True, slots=True)
class ConfirmedReflection:
    """A reflection that corrects something, and the sources it corrects. Without sources the step corrected itself."""

    step: int
    sources: tuple[Source, ...]


def may_correct(reading: Reading) -> bool:
    """Return whether a reflection can correct anything, itself included: without looking at any other step.

    One that does not say "wrong" corrects by a new statement about numbers alone (``_trace_replacement``). Labels follow from
    these reflections, the steps before them and the ``REDO_REACH`` steps after them.
    """
    return reading.stance is Stance.CORRECTS or any(is_number(equation.lhs) for equation in reading.renewed)


def find_corrections(index: StatementIndex) -> tuple[tuple[ConfirmedReflection, ...], tuple[int, ...]]:
    """Return the reflections that correct something, with their sources, and those whose source was not located."""
    corrections: list[ConfirmedReflection] = []
    untraced: list[int] = []
    corrected: dict[tuple[str, str], int] = {}  # the step that last corrected a statement
    for step, reading in enumerate(index.readings):
        if reading.stance is Stance.CORRECTS:
            sources = _trace_denial(index, step, corrected)
        elif reading.stance is not Stance.NONE:
            sources = _trace_replacement(index, step)
        else:
            continue
        if sources or reading.withdrew:
            corrections.append(ConfirmedReflection(step, sources))
            replaced = [s.equation for s in sources if s.equation is not None]
            corrected |= {equation.key: step for equation in replaced}
            if reading.stance is not Stance.CORRECTS:
                index.confirm_reflection(step, replaced)
        elif reading.stance is Stance.CORRECTS:
            untraced.append(step)
    return tuple(corrections), tuple(untraced)


def builds_on(index: StatementIndex, source: Source, end: int) -> set[int]:
    """Verify an interval: return the wrong steps in ``[source.step, end)``, including the source.

    A step is wrong if it repeats the wrong equation, or if one of its equations uses a value, name or expression whose
    latest definition in the interval is wrong; the results of that equation are then wrong as well.

    Raises:
        WorkLimitError: this takes more work than the index allows.
    """
    wrong_steps = {source.step}
    if source.equation is None:
        return wrong_steps
    wrong: dict[str, int] = {}  # terms with a wrong value, and the step that last defined or used each
    wrong_terms: set[str] = set()
    for step, part in enumerate(index.step_facts[source.step : end], start=source.step):
        index.charge(part.terms)
        for use in part.uses:
            taken = [term for term in use.used if term in wrong and step - wrong[term] <= _reach(term)]
            bad = use.key == source.equation.key or bool(taken)
            if not bad and wrong_terms:
                index.charge(len(wrong_terms) * (1 + len(use.key[0]) // _CHARS_A_TERM))
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
    """Return for how many steps a term counts as the one that was wrong: small numbers recur by chance."""
    return SMALL_REACH if len(term) <= 2 and term.isdigit() else sys.maxsize


def _trace_denial(index: StatementIndex, step: int, corrected: Mapping[tuple[str, str], int]) -> tuple[Source, ...]:
    """Return the sources of a step that says "wrong", by the most explicit evidence it gives.

    Only explicit references are traced, in this order: a step number, a statement, a result, a statement that is redone.
    A bare "That is wrong" has no source, because in real chains what precedes it is more often right than wrong.
    """
    reading = index.readings[step]
    named = [Source(s, None) for number in reading.blamed if (s := index.numbered(number, step)) is not None]
    if named:
        return tuple(named)
    denied = {e.key: e for e in reading.denied}.values()
    quoted = [s for e in denied for s in _statements(index, e, corrected.get(e.key, 0), step)]
    if quoted or reading.withdrew:
        return tuple(quoted)
    valued = [s for value in reading.denied_values if (s := _with_result(index, value, step))]
    if valued:
        return tuple(valued)
    replaced = _trace_replacement(index, step)
    if replaced or reading.denial is Denial.QUOTED:
        return replaced
    redone = _redone(index, step)
    return (redone,) if redone else ()


def _statements(index: StatementIndex, equation: Equation, first: int, before: int) -> list[Source]:
    """Return the steps that state the equation since its previous correction (``first``), in order.

    An equation between numbers is wrong in every step that states it; for one with names only the latest statement counts.
    Ignored are a bare number on the left (``2 = 1440``, the remainder of a statement that was not parsed) and equations of
    the problem, which are no errors of a step.
    """
    if literal_value(equation.lhs) is not None or index.is_given(equation):
        return []
    sources = [Source(step, equation) for step in index.stated(equation, first, before)]
    return sources if is_number(equation.lhs) else sources[-1:]


def _with_result(index: StatementIndex, value: str, before: int) -> Source | None:
    """Return the latest step with an equation that has this result; a single digit recurs, so only in the last steps."""
    stated = index.latest_result(value, before)
    near = stated is not None and stated[0] >= before - POINTING_REACH
    return Source(*stated) if stated is not None and (near or len(value) > 1) else None


def _trace_replacement(index: StatementIndex, step: int) -> tuple[Source, ...]:
    """Return the latest earlier statements that the step's new equations contradict: same left side, another number.

    A step that does not say "wrong" contradicts only statements about numbers. No step contradicts a statement about a
    single letter, because the letter may have been redefined or another value may be tried.
    """
    reading = index.readings[step]
    sources: list[Source] = []
    for equation in reading.renewed:
        if is_number(equation.lhs) or (reading.stance is Stance.CORRECTS and _compound(equation.lhs)):
            earlier = index.latest_about(equation.lhs, step)
            if earlier and not index.is_given(earlier[1]) and _contradict(earlier[1], equation):
                sources.append(Source(*earlier))
    return tuple(sources)


def _contradict(one: Equation, other: Equation) -> bool:
    """Return whether two statements about the same left side contradict: their right sides are different bare numbers.

    False for ``1/2`` and ``0.5``, for ``0.33`` and ``0.333`` (rounded), for unevaluated expressions, for congruences
    (another modulus gives another number), in another context or unit (``contexts``), and for a bare number on the left (the
    remainder of an unparsed statement).
    """
    a, b = literal_value(one.rhs), literal_value(other.rhs)
    if a is None or b is None or literal_value(one.lhs) is not None or one.congruence or other.congruence:
        return False
    if one.context != other.context or (one.unit and other.unit and one.unit != other.unit):
        return False
    rounded = "." in one.rhs + other.rhs and abs(a - b) <= ROUNDING * max(abs(a), abs(b))
    return a != b and not rounded


def _redone(index: StatementIndex, step: int) -> Source | None:
    """Return the first statement that the steps after an unexplained admission redo with another result."""
    for reading in index.readings[step + 1 : step + 1 + REDO_REACH]:
        for equation in reading.asserted:
            earlier = index.latest_about(equation.lhs, step) if _compound(equation.lhs) else None
            if earlier and not index.is_given(earlier[1]) and _contradict(earlier[1], equation):
                return Source(*earlier)
    return None


def _compound(lhs: str) -> bool:
    """Return whether an expression is more than a single name (which may be redefined or tried with another value)."""
    return is_number(lhs) or atoms(lhs) != {lhs}
