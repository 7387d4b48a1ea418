"""The protocol for incorrect solutions (paper, Stage I): answer matching.

Conservative premise: all steps of the answer block are wrong. Think steps that the answer adopts, even in other words,
are therefore wrong as well; the remaining ones are uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence

from lit_tpgrpo.async_bridge import gather_or_cancel
from lit_tpgrpo.judges.generative.methods import make_query, step_indices, vote_strict
from lit_tpgrpo.judges.generative.numbered_solution import format_ranges
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import Question
from lit_tpgrpo.judges.generative.queries import JudgeClient
from lit_tpgrpo.judges.generative.verdicts import MatchingVerdict


async def matched_steps(client: JudgeClient, window: PromptWindow, step_starts: Sequence[int]) -> frozenset[int]:
    """Return the think steps of an incorrect solution that its answer adopts, as indices into ``step_starts``."""
    parts = window.parts(step_starts)
    matched = await gather_or_cancel(*(_matched(client, window, step_starts, i, j) for i, j in parts))
    return frozenset[int]().union(*matched)


async def _matched(
    client: JudgeClient, window: PromptWindow, step_starts: Sequence[int], i: int, j: int
) -> frozenset[int]:
    first, last = step_starts[i], window.end(step_starts, j - 1)

    def check(verdict: MatchingVerdict) -> tuple[frozenset[int], int]:
        return step_indices(verdict.matched, step_starts, first, last)

    steps = format_ranges(step_starts[i:j], last)
    query = make_query(
        window, Question.MATCHING, (first, last), MatchingVerdict, check, first=first, last=last, steps=steps
    )
    return await vote_strict(client, query)
