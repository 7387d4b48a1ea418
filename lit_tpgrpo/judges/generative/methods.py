"""The interface of a way to label steps, and what all of them check and count alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from lit_tpgrpo.judges.generative.numbered_solution import step_of
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import Question, request_id
from lit_tpgrpo.judges.generative.queries import JudgeClient, Query, UnansweredError
from lit_tpgrpo.judges.generative.verdicts import JudgementsVerdict, VerdictError, VerdictModel
from lit_tpgrpo.judges.generative.voting import decide


class Method(Protocol):
    """Finds the think steps to be labelled INCORRECT (right answer) or MATCHED (wrong answer).

    ``step_starts`` are the first paragraphs of the steps, ascending; ``flagged`` returns places in it.
    """

    name: str

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
    """A question about the paragraphs of ``span``."""
    shared = window.shared(*span)
    ask_id = request_id(shared, question, **variables)
    return Query(question, shared, window.prompts.question(question, ask_id, **variables), ask_id, form, check)


async def vote_or_split(client: JudgeClient, query: Query[frozenset[int]]) -> frozenset[int]:
    """What the votes name for a closer look: where they are split, it is looked at."""
    decision = decide(await client.votes(query), client.config.vote)
    return decision.members | decision.undecided


async def vote_strict(client: JudgeClient, query: Query[frozenset[int]]) -> frozenset[int]:
    """What the votes decide.

    Raises:
        UnansweredError: they are split over a step.
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
    """The steps that paragraphs lie in. A number inside a step means the step: there is no other reading of it.

    Returns also whether something was repaired (0 or 1).

    Raises:
        VerdictError: a number is not among the paragraphs ``first`` to ``last``.
    """
    for number in numbers:
        if not first <= number <= last:
            raise VerdictError(f"{number} is out of bounds, expected {first} to {last}")
    repaired = any(number not in step_starts for number in numbers) or len(set(numbers)) < len(numbers)
    return frozenset(step_of(number, step_starts) for number in numbers), int(repaired)


def judged_wrong(
    verdict: JudgementsVerdict, step_starts: Sequence[int], asked: Collection[int]
) -> tuple[frozenset[int], int]:
    """Of the steps (places in ``step_starts``) that were asked about, those judged wrong; all must have been judged.

    Judgements of other steps are left out as a repair.

    Raises:
        VerdictError: a step is missing, or judged both ways.
    """
    by_name = {step_starts[i]: i for i in asked}
    found: dict[int, bool] = {}
    for judgement in verdict.judgements:
        index = by_name.get(judgement.step)
        if index is None:
            continue
        if found.setdefault(index, judgement.wrong) is not judgement.wrong:
            raise VerdictError(f"judgements: step {judgement.step} is judged both ways")
    missing = sorted(step_starts[i] for i in asked if i not in found)
    if missing:
        raise VerdictError(f"judgements: step {missing[0]} is missing ({len(missing)} of {len(asked)})")
    return frozenset(i for i, wrong in found.items() if wrong), int(len(verdict.judgements) != len(asked))
