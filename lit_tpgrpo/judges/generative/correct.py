"""The protocol for correct solutions (paper, Stage I): reflection positioning, error-source tracing, interval verification.

Premise: if the final answer is correct, every wrong step was followed by a reflection that corrected it. So the judge
locates reflections, traces each back to the interval of steps that it corrects, and labels the steps of that interval one
by one. Every step outside the verified intervals is correct. In long chains most reflections correct nothing: a reflection
only nominates suspect steps; tracing and verification decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_tpgrpo.async_bridge import gather_or_cancel
from lit_tpgrpo.judges.generative.methods import judged_wrong, make_query, step_indices, vote_or_split, vote_strict
from lit_tpgrpo.judges.generative.numbered_solution import format_ranges, step_index
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import Question
from lit_tpgrpo.judges.generative.queries import JudgeClient
from lit_tpgrpo.judges.generative.verdicts import (
    JudgementsVerdict,
    ReflectionsVerdict,
    SourcesVerdict,
    VerdictError,
)


async def wrong_steps(
    client: JudgeClient,
    window: PromptWindow,
    step_starts: Sequence[int],
    reflections_per_question: int,
    steps_per_question: int,
) -> frozenset[int]:
    """Return the wrong think steps of a correct solution, as indices into ``step_starts``."""
    positions = await gather_or_cancel(
        *(_reflections(client, window, step_starts, i, j) for i, j in window.parts(step_starts))
    )
    reflections = sorted(frozenset[int]().union(*positions) - {0})  # no step precedes the first one
    client.counters.add("reflections", len(reflections))
    # If the solution does not fit into one prompt, each reflection is traced alone, in a window that ends just after it.
    size = reflections_per_question if window.fits else 1
    groups = [reflections[i : i + size] for i in range(0, len(reflections), size)]
    traced = await gather_or_cancel(*(_sources(client, window, step_starts, group) for group in groups))
    suspects = {index: sources for group in traced for index, sources in group.items() if sources}
    client.counters.add("reflections_confirmed", len(suspects))
    asked = sorted(frozenset[int]().union(*suspects.values()))
    wrong: frozenset[int] = frozenset()
    # Sequentially: a step that builds on a wrong one is wrong, so later requests list the wrong steps of earlier ones.
    for chunk in window.chunks(step_starts, asked, steps_per_question):
        wrong |= await _verified(client, window, step_starts, chunk, suspects, wrong)
    return wrong


async def _reflections(
    client: JudgeClient, window: PromptWindow, step_starts: Sequence[int], i: int, j: int
) -> frozenset[int]:
    """Locate the reflections among the steps ``[i, j)``."""
    first, last = step_starts[i], window.end(step_starts, j - 1)

    def check(verdict: ReflectionsVerdict) -> tuple[frozenset[int], int]:
        return step_indices(verdict.reflections, step_starts, first, last)

    steps = format_ranges(step_starts[i:j], last)
    return await vote_or_split(
        client,
        make_query(
            window, Question.REFLECTIONS, (first, last), ReflectionsVerdict, check, first=first, last=last, steps=steps
        ),
    )


async def _sources(
    client: JudgeClient, window: PromptWindow, step_starts: Sequence[int], reflections: Sequence[int]
) -> dict[int, frozenset[int]]:
    """Trace error sources: return the suspect steps of each reflection.

    Votes are on pairs (reflection, suspect step), encoded as ``reflection * len(step_starts) + step``.
    """
    width = len(step_starts)
    quoted = [(step_starts[i], window.quoted(step_starts, i)) for i in reflections]
    span = (step_starts[reflections[0]], window.end(step_starts, reflections[-1]))
    begin, end = window.view(*span)
    visible = [n for n in step_starts if begin <= n <= end]

    def check(verdict: SourcesVerdict) -> tuple[frozenset[int], int]:
        return traced_pairs(verdict, step_starts, reflections, begin)

    query = make_query(
        window,
        Question.SOURCES,
        span,
        SourcesVerdict,
        check,
        steps=format_ranges(visible, end),
        reflections=quoted,
    )
    pairs = await vote_or_split(client, query)
    return {i: frozenset(pair % width for pair in pairs if pair // width == i) for i in reflections}


def traced_pairs(
    verdict: SourcesVerdict, step_starts: Sequence[int], reflections: Sequence[int], begin: int = 1
) -> tuple[frozenset[int], int]:
    """Return the encoded pairs (reflection, suspect step) of a verdict, and the number of repairs.

    ``begin`` is the first paragraph in the prompt. Repaired: an interval that reaches or passes the reflection is cut
    before it, swapped ends are swapped back, and a reflection named by another of its paragraphs is accepted.

    Raises:
        VerdictError: a reflection is missing, repeated or was not asked about; an interval does not begin before it.
    """
    pairs: set[int] = set()
    seen: set[int] = set()
    repairs = 0
    for source in verdict.sources:
        if source.reflection < 1:
            raise VerdictError("sources: paragraphs are counted from 1")
        index = step_index(source.reflection, step_starts)
        if index not in reflections or index in seen:
            raise VerdictError(f"sources: {source.reflection} was not asked about, or is given twice")
        seen.add(index)
        repairs += source.reflection != step_starts[index]
        for a, b in source.intervals:
            first, last = min(a, b), max(a, b)
            if not begin <= first < step_starts[index]:
                raise VerdictError(
                    f"sources: the interval [{a}, {b}] does not begin in {begin} to "
                    f"{step_starts[index] - 1}, before its reflection"
                )
            repairs += a > b or last >= step_starts[index]
            end = step_index(min(last, step_starts[index] - 1), step_starts)
            pairs |= {index * len(step_starts) + step for step in range(step_index(first, step_starts), end + 1)}
    if len(seen) < len(reflections):
        missing = next(step_starts[i] for i in reflections if i not in seen)
        raise VerdictError(f"sources: reflection {missing} is missing")
    return frozenset(pairs), repairs


async def _verified(
    client: JudgeClient,
    window: PromptWindow,
    step_starts: Sequence[int],
    asked: Sequence[int],
    suspects: Mapping[int, frozenset[int]],
    known: frozenset[int],
) -> frozenset[int]:
    """Verify suspect steps: return which of those ``asked`` are wrong, given the steps ``known`` to be wrong."""
    because = [i for i, sources in sorted(suspects.items()) if sources & set(asked)]

    def check(verdict: JudgementsVerdict) -> tuple[frozenset[int], int]:
        return judged_wrong(verdict, step_starts, asked)

    span = (step_starts[asked[0]], window.end(step_starts, asked[-1]))
    begin, end = window.view(*span)
    query = make_query(
        window,
        Question.VERIFICATION,
        span,
        JudgementsVerdict,
        check,
        steps=format_ranges([n for n in step_starts if begin <= n <= end], end),
        known=sorted(step_starts[i] for i in known),
        asked=[step_starts[i] for i in asked],
        reflections=[(step_starts[i], window.quoted(step_starts, i)) for i in because],
    )
    return await vote_strict(client, query)
