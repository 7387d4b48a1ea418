"""From a reflection back to its error, and from the error forward to what was built on it (paper, Stage I, steps 2-3).

Everything here works on ``Reading``s, one per think step, in order. A ``Ledger`` looks statements up in them, so that
tracing takes time in proportion to the text. Verification cannot: it goes through the interval of each correction, and
is charged for what it looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_tpgrpo.judges.ledger import Ledger
from lit_tpgrpo.text.equations import Equation, is_number, literal_value
from lit_tpgrpo.text.reflections import Denial, Reading, Stance

POINTING_REACH = 3
"""'That is wrong' refers to one of the last steps."""
REDO_REACH = 3
"""'I made a mistake' is explained by one of the next steps, which does a statement over with another result."""


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
                wrong_terms |= use.composed
                wrong_steps.add(step)
            else:
                wrong -= use.defined
                wrong_terms -= use.composed
        if not wrong.isdisjoint(part.drawn):
            wrong_steps.add(step)
    return wrong_steps


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
