"""A judge without a model: both protocols of the paper's Stage I by deterministic rules on the text.

It is the baseline for a generative judge, and the judge of the embedded arithmetic domain. It reads the solution and its
outcome, never the gold answer. It reads the problem only for the equations given there: they are no evidence that a step
was adopted, and no reflection corrects them. It prefers precision to recall: a step is labelled wrong only if a later one
denies something it can be seen to quote. By construction it misses errors that no reflection mentions, and reflections
that paraphrase the statement they reject.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.adoption import Pairs, adopted_steps, given_pairs
from lit_tpgrpo.judges.base import JudgeCase, abstain
from lit_tpgrpo.judges.statement_index import StatementIndex, WorkLimitError
from lit_tpgrpo.judges.tracing import ConfirmedReflection, Source, builds_on, find_corrections
from lit_tpgrpo.records import Outcome, StepLabel, Verdict
from lit_tpgrpo.text.reflections import Reading, Stance, read_step

COUNTERS = (
    "cases",
    "abstained",
    "steps",
    "steps_incorrect",
    "steps_matched",
    "reflections_nominated",
    "reflections_confirmed",
    "reflections_ineffective",
    "reflections_untraced",
)
MAX_WORK = 10_000_000
EMBEDDED_SOURCE = "arithmetic"
"""The ``Problem.source`` of the embedded domain, whose solutions the rules cover completely."""
SCOPE_WARNING = (
    "RuleJudge is used on problems outside the embedded arithmetic domain (source {source!r}). It matches text and does not "
    "understand it. In a correct solution it labels INCORRECT only what a later step denies by quoting it (an equation, its "
    "result, a step's number): these labels are rare and mostly right, and every error that is described in words is missed. "
    "In an incorrect solution it labels MATCHED by equations and the final value. Process rewards will be sparse. For real "
    "problems use a language model as judge: --config configs/judge/qwen3_32b.yaml (any OpenAI-compatible endpoint), or "
    "--data.judge GenerativeJudge."
)
"""Logged once per judge."""


@checked_arguments()
class RuleJudge:
    """Judge that labels steps by quotations, denials and values; see ``_wrong_steps`` and ``adoption.adopted_steps``.

    Warns once (``SCOPE_WARNING``) on problems outside the embedded arithmetic domain.

    Keeps the segmentation of the case. Abstains if there is no answer block (a truncated solution) or if a correct
    solution needs more work than ``max_work``. ``metrics`` also counts reflections: those nominated by a marker word are
    confirmed (they correct a statement that was located), untraced (the statement was not located) or ineffective
    (they correct nothing).

    Args:
        max_work: how many numbers and names may be compared between errors and their corrections. This step costs
            corrections x statements; everything else is linear in the text. The default is about three seconds of work;
            60 corrections after 1,500 statements need a twentieth of it.

    Raises:
        ConfigError: max_work is not positive.
    """

    name = "rule"

    def __init__(self, max_work: int = MAX_WORK) -> None:
        if max_work < 1:
            raise ConfigError(f"max_work must be at least 1, got {max_work}")
        self.max_work = max_work
        self._counts: Counter[str] = Counter()
        self._warned = False

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        for index, case in enumerate(cases):
            if case.problem.source != EMBEDDED_SOURCE and not self._warned:
                self._warned = True
                rank_zero_warn(SCOPE_WARNING.format(source=case.problem.source), stacklevel=2)
            yield index, self._verdict(case)

    def metrics(self) -> dict[str, float]:
        counts, self._counts = self._counts, Counter()
        return {name: float(counts[name]) for name in COUNTERS}

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _verdict(self, case: JudgeCase) -> Verdict:
        self._counts["cases"] += 1
        if not case.steps or not case.steps[-1].is_answer:
            self._counts["abstained"] += 1
            return abstain(case, "no answer block")
        *thinks, last = (case.solution.text[s.start : s.end] for s in case.steps)
        readings = [read_step(think) for think in thinks]
        if case.outcome is Outcome.CORRECT:
            try:
                wrong = self._wrong_steps(readings, given_pairs(case.problem.prompt))
            except WorkLimitError:
                self._counts["abstained"] += 1
                return abstain(case, f"tracing its corrections takes more than max_work {self.max_work}")
            labels = [StepLabel.INCORRECT if i in wrong else StepLabel.CORRECT for i in range(len(thinks))]
            labels.append(StepLabel.CORRECT)
        else:
            block = case.answer_block()
            adopted = adopted_steps(thinks, readings, last if block is None else block, case.problem.prompt)
            labels = [StepLabel.MATCHED if i in adopted else StepLabel.UNMATCHED for i in range(len(thinks))]
            labels.append(StepLabel.MATCHED)
        self._counts["steps"] += len(labels)
        self._counts["steps_incorrect"] += labels.count(StepLabel.INCORRECT)
        self._counts["steps_matched"] += labels.count(StepLabel.MATCHED)
        return Verdict(case.steps, tuple(labels))

    def _wrong_steps(self, readings: Sequence[Reading], givens: Pairs = frozenset()) -> set[int]:
        """Return the wrong steps of a correct solution: locate reflections, trace their sources, verify the intervals.

        Every step outside the intervals is correct. A reflection is judged like any other step: it is wrong if a later
        one corrects it, if it lies inside an interval and uses a wrong value, or if it denies a statement and then
        asserts the same statement. A denied statement is correct if a later correction asserts it again.
        """
        index = StatementIndex(readings, self.max_work, givens)
        corrections, untraced = find_corrections(index)
        wrong: set[int] = set()
        for correction in corrections:
            for source in _first_sources(correction):
                if source.equation is not None and index.asserts_again(correction.step, source.equation):
                    wrong.add(correction.step)
                elif source.equation is None or not index.is_reinstated(source.equation, correction.step):
                    wrong |= builds_on(index, source, correction.step)
        nominated = sum(r.stance is not Stance.NONE for r in readings)
        self._counts["reflections_nominated"] += nominated
        self._counts["reflections_confirmed"] += len(corrections)
        self._counts["reflections_untraced"] += len(untraced)
        self._counts["reflections_ineffective"] += nominated - len(corrections) - len(untraced)
        return wrong


def _first_sources(correction: ConfirmedReflection) -> Iterator[Source]:
    """Yield the first of the sources that state the same equation: its interval contains those of the later ones."""
    seen: set[tuple[str, str]] = set()
    for source in sorted(correction.sources, key=lambda s: s.step):
        if source.equation is None or source.equation.key not in seen:
            yield source
        if source.equation is not None:
            seen.add(source.equation.key)
