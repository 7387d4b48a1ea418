"""A judge without a model: both protocols of the paper's Stage I by deterministic signals, from the text alone.

It is the baseline that a generative judge has to beat, and the judge of the embedded domain. It looks at the solution and
its outcome, never at the gold answer, and at the problem only for the equations that it gives, which no step adopts and no
reflection corrects. Precision goes before recall: where nothing that can be quoted is denied, nothing is labelled. What
it cannot see, by construction: errors that no reflection ever names, and what is said of a statement in other words.
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
HOME = "arithmetic"
"""The source of the problems that the judge reads in full: the embedded domain's."""
SCOPE = (
    "RuleJudge on problems that are not the embedded domain's ({source!r}). It reads the text and does not understand it: in a "
    "right solution it labels INCORRECT only what a later step denies by quoting it (an equation, its result, a step's "
    "number), which is seldom and then mostly right, and misses every error that is described in words; in a wrong one "
    "MATCHED by equations and the final value. Process rewards will be sparse. For real problems let a language model judge: "
    "--config configs/judge/qwen3_32b.yaml (any OpenAI-compatible endpoint), or --data.judge GenerativeJudge."
)
"""What is said once where the judge is used away from home."""


@checked_arguments()
class RuleJudge:
    """Labels steps by quotations, denials and values; see ``_wrong_steps`` and ``adoption.adopted_steps``.

    Warns once where it is used on other problems than the embedded domain's (``SCOPE``).

    Keeps the segmentation of the case. Abstains where there is no answer block (a truncated solution) and where a
    correct solution makes more work than ``max_work``. ``metrics`` counts reflections too: of those nominated by a
    marker word, confirmed ones correct something that was found, untraced ones something that was not, ineffective ones
    nothing.

    Args:
        max_work: how many numbers and names may be looked at between errors and their corrections. Everything else
            takes time in proportion to the text, this takes corrections times statements. The default is about three
            seconds' work; 60 corrections at the end of 1,500 statements need a twentieth of it.

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
            if case.problem.source != HOME and not self._warned:
                self._warned = True
                rank_zero_warn(SCOPE.format(source=case.problem.source), stacklevel=2)
            yield index, self._verdict(case)

    def metrics(self) -> dict[str, float]:
        counts, self._counts = self._counts, Counter()
        return {name: float(counts[name]) for name in COUNTERS}

    def close(self) -> None:
        """Nothing to free."""

    def _verdict(self, case: JudgeCase) -> Verdict:
        self._counts["cases"] += 1
        if not case.steps or not case.steps[-1].is_answer:
            self._counts["abstained"] += 1
            return abstain(case, "no answer block: the think block was never closed")
        *thinks, answer = (case.solution.text[s.start : s.end] for s in case.steps)
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
            adopted = adopted_steps(thinks, readings, answer, case.problem.prompt)
            labels = [StepLabel.MATCHED if i in adopted else StepLabel.UNMATCHED for i in range(len(thinks))]
            labels.append(StepLabel.MATCHED)
        self._counts["steps"] += len(labels)
        self._counts["steps_incorrect"] += labels.count(StepLabel.INCORRECT)
        self._counts["steps_matched"] += labels.count(StepLabel.MATCHED)
        return Verdict(case.steps, tuple(labels))

    def _wrong_steps(self, readings: Sequence[Reading], givens: Pairs = frozenset()) -> set[int]:
        """Protocol for correct solutions: position reflections, trace their sources, verify the interval between.

        Outside the intervals everything is correct. A reflection is judged like any other step: it is wrong if a later
        one corrects it, if it lies inside an interval and uses a wrong value, or if it denies a statement and then
        asserts that very statement. What a reflection denied is right after all if a later correction puts it back.
        """
        ledger = StatementIndex(readings, self.max_work, givens)
        corrections, untraced = find_corrections(ledger)
        wrong: set[int] = set()
        for correction in corrections:
            for source in _first_sources(correction):
                if source.equation is not None and ledger.stands_by(correction.step, source.equation):
                    wrong.add(correction.step)
                elif source.equation is None or not ledger.is_reinstated(source.equation, correction.step):
                    wrong |= builds_on(ledger, source, correction.step)
        nominated = sum(r.stance is not Stance.NONE for r in readings)
        self._counts["reflections_nominated"] += nominated
        self._counts["reflections_confirmed"] += len(corrections)
        self._counts["reflections_untraced"] += len(untraced)
        self._counts["reflections_ineffective"] += nominated - len(corrections) - len(untraced)
        return wrong


def _first_sources(correction: ConfirmedReflection) -> Iterator[Source]:
    """Of the sources that state the same equation the first: its interval holds the others and all that they spoil."""
    seen: set[tuple[str, str]] = set()
    for source in sorted(correction.sources, key=lambda s: s.step):
        if source.equation is None or source.equation.key not in seen:
            yield source
        if source.equation is not None:
            seen.add(source.equation.key)
