"""The rule judge's labels of one solution, from texts alone: it runs in worker processes as well, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lit_tpgrpo.judges.adoption import Pairs, adopted_steps, given_pairs
from lit_tpgrpo.judges.statement_index import StatementIndex, WorkLimitError
from lit_tpgrpo.judges.tracing import REDO_REACH, ConfirmedReflection, Source, builds_on, find_corrections, may_correct
from lit_tpgrpo.text.step_text import StepText


@dataclass(frozen=True, slots=True)
class RuleCase:
    """What the rules read of a solution: the problem, the think steps, the answer block without tags, whether it is correct.

    ``max_work``: how many terms the verification of corrections may compare (``StatementIndex.charge``).
    """

    prompt: str
    thinks: tuple[str, ...]
    answer: str
    correct: bool
    max_work: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> RuleCase:
        return cls(**{**message, "thinks": tuple(message["thinks"])})


@dataclass(frozen=True, slots=True)
class RuleLabels:
    """The indices of the think steps that are INCORRECT or MATCHED, and counts of reflections.

    ``limited``: the rules gave up, since their work exceeds ``max_work``.
    """

    wrong: frozenset[int] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)
    limited: bool = False

    def as_json(self) -> dict[str, Any]:
        return {"wrong": sorted(self.wrong), "counts": dict(self.counts), "limited": self.limited}

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> RuleLabels:
        return cls(frozenset(message["wrong"]), message["counts"], message["limited"])


def label_steps(case: RuleCase) -> RuleLabels:
    """Read the steps of a solution and label them; see ``wrong_steps`` and ``adoption.adopted_steps``."""
    steps = [StepText(think) for think in case.thinks]
    if not case.correct:
        return RuleLabels(frozenset(adopted_steps(steps, case.answer, case.prompt)))
    try:
        return wrong_steps(steps, case.max_work, given_pairs(case.prompt))
    except WorkLimitError:
        return RuleLabels(limited=True)


def wrong_steps(steps: Sequence[StepText], max_work: int, givens: Pairs = frozenset()) -> RuleLabels:
    """Return the wrong steps of a correct solution: locate reflections, trace their sources, verify the intervals.

    Every step outside the intervals is correct. A reflection is judged like any other step: it is wrong if a later
    one corrects it, if it lies inside an interval and uses a wrong value, or if it denies a statement and then
    asserts the same statement. A denied statement is correct if a later correction asserts it again.

    Steps after all that a reflection can refer to are not parsed; in most real chains no reflection refers to anything.

    Raises:
        WorkLimitError: this takes more than ``max_work``.
    """
    nominated = [i for i, step in enumerate(steps) if step.reflects()]
    referring = [i for i in nominated if may_correct(steps[i].reading())]
    if not nominated:
        return RuleLabels()
    read = [step.reading() for step in steps[: referring[-1] + 1 + REDO_REACH]] if referring else []
    index = StatementIndex(read, max_work, givens)
    corrections, untraced = find_corrections(index)
    wrong: set[int] = set()
    for correction in corrections:
        for source in _first_sources(correction):
            if source.equation is not None and index.asserts_again(correction.step, source.equation):
                wrong.add(correction.step)
            elif source.equation is None or not index.is_reinstated(source.equation, correction.step):
                wrong |= builds_on(index, source, correction.step)
    counts = Counter(
        reflections_nominated=len(nominated),
        reflections_confirmed=len(corrections),
        reflections_untraced=len(untraced),
        reflections_ineffective=len(nominated) - len(corrections) - len(untraced),
    )
    return RuleLabels(frozenset(wrong), counts)


def _first_sources(correction: ConfirmedReflection) -> Iterator[Source]:
    """Yield the first of the sources that state the same equation: its interval contains those of the later ones."""
    seen: set[tuple[str, str]] = set()
    for source in sorted(correction.sources, key=lambda s: s.step):
        if source.equation is None or source.equation.key not in seen:
            yield source
        if source.equation is not None:
            seen.add(source.equation.key)
