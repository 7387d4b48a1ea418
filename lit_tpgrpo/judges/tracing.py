"""From a reflection back to its error, and from the error forward to what was built on it (paper, Stage I, steps 2-3).

Everything here works on ``Reading``s, one per think step, in order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

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


def find_corrections(readings: Sequence[Reading]) -> tuple[tuple[Correction, ...], tuple[int, ...]]:
    """The reflections that correct something, with the sources, and those whose object was not found."""
    corrections: list[Correction] = []
    untraced: list[int] = []
    for step, reading in enumerate(readings):
        if reading.stance is Stance.CORRECTS:
            sources = _trace_denial(readings, step, corrections)
            if sources or reading.withdrew:
                corrections.append(Correction(step, sources))
            else:
                untraced.append(step)
        elif reading.stance is Stance.OPEN and (sources := _trace_replacement(readings, step)):
            corrections.append(Correction(step, sources))
    return tuple(corrections), tuple(untraced)


def is_reinstated(readings: Sequence[Reading], equation: Equation, after: int) -> bool:
    """Whether a later correction asserts again what the reflection ``after`` had denied: the last word counts."""
    return any(
        reading.stance is Stance.CORRECTS and any(e.key == equation.key for e in reading.renewed)
        for reading in readings[after + 1 :]
    )


def builds_on(readings: Sequence[Reading], source: Source, end: int) -> set[int]:
    """Interval verification: the wrong steps of ``[source.step, end)``, the source first.

    A step is wrong if it states the wrong equation again or if an equation of it takes up a value, name or expression
    whose latest definition in the interval is wrong; its own results are then wrong as well.
    """
    wrong_steps = {source.step}
    if source.equation is None:
        return wrong_steps
    wrong: dict[str, bool] = {}
    for step in range(source.step, end):
        reading = readings[step]
        for equation in reading.asserted:
            defines = atoms(equation.lhs) == {equation.lhs} and not is_number(equation.lhs)
            used = atoms(equation.rhs if defines else equation.lhs)
            bad = (
                equation.key == source.equation.key
                or any(wrong.get(atom, False) for atom in used)
                or any(flag and len(term) > 2 and term in equation.lhs for term, flag in wrong.items())
            )
            wrong[equation.rhs] = bad
            if defines:
                wrong[equation.lhs] = bad
            if bad:
                wrong_steps.add(step)
        in_words = not reading.asserted and reading.stance is Stance.NONE and _DRAWS.search(reading.flat)
        if in_words and any(wrong.get(atom, False) for atom in atoms(reading.flat) if atom[0].isdigit()):
            wrong_steps.add(step)
    return wrong_steps


def _trace_denial(readings: Sequence[Reading], step: int, earlier: Sequence[Correction]) -> tuple[Source, ...]:
    """What a step that says "wrong" means, the most explicit sign first."""
    reading = readings[step]
    quoted = [s for equation in reading.denied for s in _statements(readings, equation, step, earlier)]
    if quoted or reading.withdrew:
        return tuple(quoted)
    valued = [s for value in reading.denied_values if (s := _with_value(readings, value, step))]
    if valued:
        return tuple(valued)
    replaced = _trace_replacement(readings, step)
    if replaced:
        return replaced
    results = [s for e in reading.denied if (s := _with_value(readings, e.rhs, step, POINTING_REACH))]
    if results or reading.denial is Denial.QUOTED:
        return tuple(results)
    if reading.denial is Denial.POINTING:
        # "That can't be right … 8 * 2 = 6" which stands there already: the doubt ended where it began.
        found = None if _restates(readings, step) else _recent(readings, step)
    else:
        found = _redone(readings, step)
    return (found,) if found else ()


def _statements(
    readings: Sequence[Reading], equation: Equation, before: int, earlier: Sequence[Correction]
) -> list[Source]:
    """The steps that state the equation, the earliest first, back to its previous correction.

    Between numbers an equation is wrong wherever it stands; with names only its latest statement is meant.
    """
    corrected = [
        c.step for c in earlier if any(s.equation is not None and s.equation.key == equation.key for s in c.sources)
    ]
    found = [
        Source(step, equation)
        for step in range(max(corrected, default=0), before)
        if any(e.key == equation.key for e in readings[step].asserted)
    ]
    return found if is_number(equation.lhs) else found[-1:]


def _with_value(readings: Sequence[Reading], value: str, before: int, reach: int | None = None) -> Source | None:
    """The latest step that comes to this value, or else the latest that mentions it."""
    span = range(before - 1, max(-1, before - 1 - (reach or before)), -1)
    for step in span:
        for equation in reversed(readings[step].asserted):
            if equation.rhs == value:
                return Source(step, equation)
    for step in span:
        if value in atoms(readings[step].flat):
            return Source(step, None)
    return None


def _trace_replacement(readings: Sequence[Reading], step: int) -> tuple[Source, ...]:
    """The latest earlier statements that the step's new equations contradict: same left side, another number.

    A step that does not say "wrong" contradicts only statements about numbers: a letter may have been given another
    meaning or be tried with another value.
    """
    reading = readings[step]
    sources: list[Source] = []
    for equation in reading.renewed:
        if reading.stance is Stance.CORRECTS or is_number(equation.lhs):
            found = _latest(readings, equation.lhs, step)
            if found and _contradict(found[1], equation):
                sources.append(Source(*found))
    return tuple(sources)


def _contradict(one: Equation, other: Equation) -> bool:
    """Whether the right sides are different bare numbers; ``1/2`` and ``0.5`` are not, nor is anything unevaluated."""
    values = literal_value(one.rhs), literal_value(other.rhs)
    return None not in values and values[0] != values[1]


def _latest(readings: Sequence[Reading], lhs: str, before: int) -> tuple[int, Equation] | None:
    """The latest statement about ``lhs`` before a step."""
    for step in range(before - 1, -1, -1):
        for equation in reversed(readings[step].asserted):
            if equation.lhs == lhs:
                return step, equation
    return None


def _restates(readings: Sequence[Reading], step: int) -> bool:
    """Whether the new equations of a step all stand in earlier steps as they are."""
    renewed = {e.key for e in readings[step].renewed}
    return bool(renewed) and renewed <= {e.key for reading in readings[:step] for e in reading.asserted}


def _recent(readings: Sequence[Reading], before: int) -> Source | None:
    """What "that" points at: the last equation of the last few steps, or else the last step."""
    for step in range(before - 1, max(-1, before - 1 - POINTING_REACH), -1):
        if readings[step].asserted:
            return Source(step, readings[step].asserted[-1])
    return Source(before - 1, None) if before else None


def _redone(readings: Sequence[Reading], step: int) -> Source | None:
    """The earliest statement that the steps after an unexplained admission do over with another result."""
    for later in range(step + 1, min(step + 1 + REDO_REACH, len(readings))):
        for equation in readings[later].asserted:
            found = _latest(readings, equation.lhs, step)
            if found and _contradict(found[1], equation):
                return Source(*found)
    return None
