"""The protocol for incorrect solutions (paper, Stage I): answer matching.

Conservative premise: all steps of the answer block are wrong. Think steps that the answer adopts, in whatever words, are
therefore wrong as well; the others are uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence

from lit_tpgrpo.judges.generative.asking import Asker
from lit_tpgrpo.judges.generative.background import together
from lit_tpgrpo.judges.generative.methods import decided, make_ask, places
from lit_tpgrpo.judges.generative.prompts import Question
from lit_tpgrpo.judges.generative.sheet import ranges
from lit_tpgrpo.judges.generative.verdicts import MatchingVerdict
from lit_tpgrpo.judges.generative.views import Reader


async def matched_steps(asker: Asker, reader: Reader, names: Sequence[int]) -> frozenset[int]:
    """The think steps of an incorrect solution that its answer adopts, as places in ``names``."""
    found = await together(*(_matched(asker, reader, names, i, j) for i, j in reader.parts(names)))
    return frozenset[int]().union(*found)


async def _matched(asker: Asker, reader: Reader, names: Sequence[int], i: int, j: int) -> frozenset[int]:
    first, last = names[i], reader.end(names, j - 1)

    def check(verdict: MatchingVerdict) -> tuple[frozenset[int], int]:
        return places(verdict.matched, names, first, last)

    steps = ranges(names[i:j], last)
    ask = make_ask(
        reader, Question.MATCHING, (first, last), MatchingVerdict, check, first=first, last=last, steps=steps
    )
    return await decided(asker, ask)
