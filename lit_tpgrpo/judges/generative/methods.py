"""The interface of a labelling method, and the queries, votes and checks that all methods share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from lit_tpgrpo.judges.generative.numbered_solution import step_index
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import Question, request_id
from lit_tpgrpo.judges.generative.queries import JudgeClient, Query, UnansweredError
from lit_tpgrpo.judges.generative.verdicts import JudgementsVerdict, VerdictError, VerdictModel
from lit_tpgrpo.judges.generative.voting import decide


class Method(Protocol):
    """Interface of a labelling method: finds the think steps to label INCORRECT (right answer) or MATCHED (wrong answer).

    ``step_starts`` holds the first paragraph of each step, ascending; ``flagged`` returns indices into it.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    async def flagged(
        self, client: JudgeClient, window: PromptWindow, step_starts: Sequence[int]
    ) -> frozenset[int]: ...


def make_query(
    window: PromptWindow,
    question: Question,
    span: tuple[int, int],
    form: type[VerdictModel],
    check: Callable[[Any], tuple[frozenset[int], int]],
    **variables: Any,
) -> Query[frozenset[int]]:
    """Build a question about the paragraphs of ``span`` (first, last)."""
    shared = window.shared(*span)
    ask_id = request_id(shared, question, **variables)
    text = window.prompts.question(question, ask_id, **variables)
    return Query(question, shared, text, ask_id, form, check, window.numbered.case.draw)


async def vote_or_split(client: JudgeClient, query: Query[frozenset[int]]) -> frozenset[int]:
    """Return the steps that the votes nominate; a step on which they are split is included, since it is checked later."""
    decision = decide(await client.votes(query), client.config.vote)
    return decision.members | decision.undecided


async def vote_strict(client: JudgeClient, query: Query[frozenset[int]]) -> frozenset[int]:
    """Return the steps that the votes decide on.

    Raises:
        UnansweredError: the votes are split over a step.
    """
    decision = decide(await client.votes(query), client.config.vote)
    if decision.undecided:
        raise UnansweredError(
            "undecided", f"{query.question.value}: the votes are split over {sorted(decision.undecided)}"
        )
    return decision.members


def step_indices(
    numbers: Sequence[int], step_starts: Sequence[int], first: int, last: int
) -> tuple[frozenset[int], int]:
    """Return the indices of the steps that contain the paragraphs ``numbers``, and whether a repair was needed (0 or 1).

    Repaired: a number that is not the first of its step, which can only mean that step, and repeated numbers.

    Raises:
        VerdictError: a number is not among the paragraphs ``first`` to ``last``.
    """
    for number in numbers:
        if not first <= number <= last:
            raise VerdictError(f"{number} is out of bounds, expected {first} to {last}")
    repaired = any(number not in step_starts for number in numbers) or len(set(numbers)) < len(numbers)
    return frozenset(step_index(number, step_starts) for number in numbers), int(repaired)


def judged_wrong(
    verdict: JudgementsVerdict, step_starts: Sequence[int], asked: Collection[int]
) -> tuple[frozenset[int], int]:
    """Return which of the steps ``asked`` (indices into ``step_starts``) are judged wrong, and the repairs (0 or 1).

    Judgements of other steps are dropped, which counts as a repair.

    Raises:
        VerdictError: a step is missing, or judged both right and wrong.
    """
    by_start = {step_starts[i]: i for i in asked}
    judged: dict[int, bool] = {}
    for judgement in verdict.judgements:
        index = by_start.get(judgement.step)
        if index is None:
            continue
        if judged.setdefault(index, judgement.wrong) is not judgement.wrong:
            raise VerdictError(f"judgements: step {judgement.step} is judged both right and wrong")
    missing = sorted(step_starts[i] for i in asked if i not in judged)
    if missing:
        raise VerdictError(f"judgements: step {missing[0]} is missing ({len(missing)} of {len(asked)})")
    return frozenset(i for i, wrong in judged.items() if wrong), int(len(verdict.judgements) != len(asked))
