"""A judge without a model: both protocols of the paper's Stage I by deterministic signals, from the text alone.

It is the baseline that a generative judge has to beat, and the judge of the embedded domain. It looks at nothing but
the solution and its outcome: not at the gold answer, not at the problem. What it cannot see, by construction: errors
that no reflection ever names, and statements that are taken up again in other words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import JudgeCase, abstain
from lit_tpgrpo.judges.ledger import Ledger, WorkLimitError
from lit_tpgrpo.judges.tracing import Correction, Source, builds_on, find_corrections
from lit_tpgrpo.records import Outcome, StepLabel, Verdict
from lit_tpgrpo.text.answers import extract_boxed
from lit_tpgrpo.text.equations import EXPRESSION, Equation, flatten, normalise
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
_CONCLUDES = re.compile(r"\b(?:answer|result|solution|value|total)\b[^.\n]{0,40}?(?:\bis|=|:)\s*$", re.IGNORECASE)


@checked_arguments()
class RuleJudge:
    """Labels steps by quotations, denials and values; see ``wrong_steps`` and ``adopted_steps``.

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

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        for index, case in enumerate(cases):
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
                wrong = self._wrong_steps(readings)
            except WorkLimitError:
                self._counts["abstained"] += 1
                return abstain(case, f"tracing its corrections takes more than max_work {self.max_work}")
            labels = [StepLabel.INCORRECT if i in wrong else StepLabel.CORRECT for i in range(len(thinks))]
            labels.append(StepLabel.CORRECT)
        else:
            adopted = adopted_steps(thinks, readings, answer)
            labels = [StepLabel.MATCHED if i in adopted else StepLabel.UNMATCHED for i in range(len(thinks))]
            labels.append(StepLabel.MATCHED)
        self._counts["steps"] += len(labels)
        self._counts["steps_incorrect"] += labels.count(StepLabel.INCORRECT)
        self._counts["steps_matched"] += labels.count(StepLabel.MATCHED)
        return Verdict(case.steps, tuple(labels))

    def _wrong_steps(self, readings: Sequence[Reading]) -> set[int]:
        """Protocol for correct solutions: position reflections, trace their sources, verify the interval between.

        Outside the intervals everything is correct. A reflection is judged like any other step: it is wrong if a later
        one corrects it, if it lies inside an interval and uses a wrong value, or if it denies a statement and then
        asserts that very statement. What a reflection denied is right after all if a later correction puts it back.
        """
        ledger = Ledger(readings, self.max_work)
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


def adopted_steps(thinks: Sequence[str], readings: Sequence[Reading], answer: str) -> set[int]:
    """Protocol for incorrect solutions: the think steps that the answer block takes over.

    Those that assert an equation the answer asserts, and those that announce its final value. The value alone is weak
    evidence (small numbers recur): it counts for the last step that comes to it, and for every such step only where
    the answer repeats no equation at all.
    """
    taken = _statements(read_step(answer).asserted)
    adopted = {i for i, reading in enumerate(readings) if taken & _statements(reading.asserted)}
    value = final_value(answer)
    if value is None:
        return adopted
    arrives = [i for i, reading in enumerate(readings) if any(e.rhs == value for e in reading.asserted)]
    announced = {i for i, reading in enumerate(readings) if _announces(reading.flat, thinks[i], value)}
    return announced | (adopted | set(arrives[-1:]) if adopted else set(arrives))


def final_value(text: str) -> str | None:
    """The normalised content of the last box, without a leading ``x =``; None where there is none."""
    boxed = extract_boxed(text, thinks=False)
    return normalise(flatten(boxed).rpartition("=")[2]) or None if boxed else None


def _first_sources(correction: Correction) -> Iterator[Source]:
    """Of the sources that state the same equation the first: its interval holds the others and all that they spoil."""
    seen: set[tuple[str, str]] = set()
    for source in sorted(correction.sources, key=lambda s: s.step):
        if source.equation is None or source.equation.key not in seen:
            yield source
        if source.equation is not None:
            seen.add(source.equation.key)


def _announces(flat: str, raw: str, value: str) -> bool:
    """Whether a step presents the value as its result: boxes it, or says that the answer is this."""
    if final_value(raw) == value:
        return True
    return any(
        normalise(match[0]) == value and _CONCLUDES.search(flat, max(0, match.start() - 60), match.start())
        for match in EXPRESSION.finditer(flat)
    )


def _statements(equations: Sequence[Equation]) -> set[frozenset[str]]:
    """The equations as unordered pairs; a chain ``a = b = c`` also states ``a = c``."""
    pairs: set[frozenset[str]] = set()
    head, end = "", -1
    for equation in equations:
        if equation.start >= end:
            head = equation.lhs
        end = equation.end
        pairs |= {frozenset(equation.key), frozenset((head, equation.rhs))}
    return {pair for pair in pairs if len(pair) == 2}
