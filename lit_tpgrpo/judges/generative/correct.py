"""The protocol for correct solutions (paper, Stage I): reflection positioning, error-source tracing, interval verification.

Premise: where the final answer is right, every wrong step was followed by a reflection that put it right. So reflections
are looked for, traced back to the interval of steps that they correct, and the steps of that interval are judged one by
one. Everything outside the verified intervals is correct. In long chains most reflections correct nothing: they nominate,
tracing and verification decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_tpgrpo.judges.generative.asking import Asker
from lit_tpgrpo.judges.generative.background import together
from lit_tpgrpo.judges.generative.methods import decided, judged_wrong, make_ask, nominated, places
from lit_tpgrpo.judges.generative.prompts import Question
from lit_tpgrpo.judges.generative.sheet import ranges, step_of
from lit_tpgrpo.judges.generative.verdicts import (
    JudgementsVerdict,
    ReflectionsVerdict,
    SourcesVerdict,
    VerdictError,
)
from lit_tpgrpo.judges.generative.views import Reader


async def wrong_steps(
    asker: Asker, reader: Reader, names: Sequence[int], reflections_per_question: int, steps_per_question: int
) -> frozenset[int]:
    """The wrong think steps of a correct solution, as places in ``names``."""
    positions = await together(*(_reflections(asker, reader, names, i, j) for i, j in reader.parts(names)))
    reflections = sorted(frozenset[int]().union(*positions) - {0})  # the first step has nothing to turn on
    asker.counters.add("reflections", len(reflections))
    # What does not fit into one prompt is traced one by one, each in a view that ends behind it.
    size = reflections_per_question if reader.fits else 1
    groups = [reflections[i : i + size] for i in range(0, len(reflections), size)]
    traced = await together(*(_sources(asker, reader, names, group) for group in groups))
    suspects = {place: sources for found in traced for place, sources in found.items() if sources}
    asker.counters.add("reflections_confirmed", len(suspects))
    asked = sorted(frozenset[int]().union(*suspects.values()))
    wrong: frozenset[int] = frozenset()
    # One after the other: what builds on a wrong step is wrong, so the later ones must know of the earlier ones.
    for chunk in reader.chunks(names, asked, steps_per_question):
        wrong |= await _verified(asker, reader, names, chunk, suspects, wrong)
    return wrong


async def _reflections(asker: Asker, reader: Reader, names: Sequence[int], i: int, j: int) -> frozenset[int]:
    """Reflection positioning among the steps ``[i, j)``."""
    first, last = names[i], reader.end(names, j - 1)

    def check(verdict: ReflectionsVerdict) -> tuple[frozenset[int], int]:
        return places(verdict.reflections, names, first, last)

    steps = ranges(names[i:j], last)
    return await nominated(
        asker,
        make_ask(
            reader, Question.REFLECTIONS, (first, last), ReflectionsVerdict, check, first=first, last=last, steps=steps
        ),
    )


async def _sources(
    asker: Asker, reader: Reader, names: Sequence[int], reflections: Sequence[int]
) -> dict[int, frozenset[int]]:
    """Error-source tracing: the steps that each reflection shows to be suspect.

    Votes are on pairs (reflection, suspect step), as ``reflection * len(names) + step``.
    """
    width = len(names)
    quoted = [(names[i], reader.quoted(names, i)) for i in reflections]
    span = (names[reflections[0]], reader.end(names, reflections[-1]))
    begin, end = reader.view(*span)
    visible = [n for n in names if begin <= n <= end]

    def check(verdict: SourcesVerdict) -> tuple[frozenset[int], int]:
        return traced_pairs(verdict, names, reflections, begin)

    ask = make_ask(
        reader,
        Question.SOURCES,
        span,
        SourcesVerdict,
        check,
        steps=ranges(visible, end),
        reflections=quoted,
    )
    pairs = await nominated(asker, ask)
    return {i: frozenset(pair % width for pair in pairs if pair // width == i) for i in reflections}


def traced_pairs(
    verdict: SourcesVerdict, names: Sequence[int], reflections: Sequence[int], begin: int = 1
) -> tuple[frozenset[int], int]:
    """The pairs (reflection, suspect step) of a verdict; ``begin`` is the first paragraph that was shown.

    Repaired: an interval that runs up to or beyond the reflection ends before it, one whose ends are swapped is turned
    round, and a reflection named by another of its paragraphs is found.

    Raises:
        VerdictError: a reflection is missing, given twice or was not asked about; an interval does not begin before it.
    """
    pairs: set[int] = set()
    seen: set[int] = set()
    repairs = 0
    for source in verdict.sources:
        if source.reflection < 1:
            raise VerdictError("sources: paragraphs are counted from 1")
        place = step_of(source.reflection, names)
        if place not in reflections or place in seen:
            raise VerdictError(f"sources: {source.reflection} was not asked about, or is given twice")
        seen.add(place)
        repairs += source.reflection != names[place]
        for a, b in source.intervals:
            first, last = min(a, b), max(a, b)
            if not begin <= first < names[place]:
                raise VerdictError(
                    f"sources: the interval [{a}, {b}] does not begin in {begin} to {names[place] - 1}, before its reflection"
                )
            repairs += a > b or last >= names[place]
            end = step_of(min(last, names[place] - 1), names)
            pairs |= {place * len(names) + step for step in range(step_of(first, names), end + 1)}
    if len(seen) < len(reflections):
        missing = next(names[i] for i in reflections if i not in seen)
        raise VerdictError(f"sources: reflection {missing} is missing")
    return frozenset(pairs), repairs


async def _verified(
    asker: Asker,
    reader: Reader,
    names: Sequence[int],
    asked: Sequence[int],
    suspects: Mapping[int, frozenset[int]],
    known: frozenset[int],
) -> frozenset[int]:
    """Interval verification: which of the suspect steps are wrong, where ``known`` ones are already."""
    because = [i for i, sources in sorted(suspects.items()) if sources & set(asked)]

    def check(verdict: JudgementsVerdict) -> tuple[frozenset[int], int]:
        return judged_wrong(verdict, names, asked)

    span = (names[asked[0]], reader.end(names, asked[-1]))
    begin, end = reader.view(*span)
    ask = make_ask(
        reader,
        Question.VERIFICATION,
        span,
        JudgementsVerdict,
        check,
        steps=ranges([n for n in names if begin <= n <= end], end),
        known=sorted(names[i] for i in known),
        asked=[names[i] for i in asked],
        reflections=[(names[i], reader.quoted(names, i)) for i in because],
    )
    return await decided(asker, ask)
