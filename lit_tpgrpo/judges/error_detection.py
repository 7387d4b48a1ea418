"""Error-detection scores of a judge, on solutions whose *wrong steps* are known (rather than the labels of the protocol).

The scores are ProcessBench's (Zheng et al., 2412.06559): the share of the solutions with an error whose first wrong step
is detected, the share of the error-free ones in which nothing is flagged, and the harmonic mean of the two (F1). If all
wrong steps are known, also precision, recall and F1 of the flagged steps.

A step is *flagged* if the verdict's label at its first character is INCORRECT or MATCHED. For judges that label
mathematical errors (``DirectLabels``, ``StepByStep``) these scores measure their objective. For the paper's judge
(``IntrinsicSignals``, ``RuleJudge``) they do not: in a solution with an incorrect answer it labels what the answer adopts
(MATCHED), which may or may not include the first error; in one with a correct answer it labels only wrong steps that a
reflection corrected (paper, Stage I). Read its scores by the columns of the table, as a measure of how far its labels are
from errors.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.scoring import labels_at
from lit_tpgrpo.records import WRONG_LABELS, Outcome, Problem, Solution, StepLabel, StopReason, Verdict
from lit_tpgrpo.text.formats.think_tags import THINK_END, ThinkTags
from lit_tpgrpo.text.paragraphs import BLANK_LINES, paragraph_spans
from lit_tpgrpo.text.steps import steps_from_starts
from lit_tpgrpo.token_arrays import token_ints


@dataclass(frozen=True, slots=True)
class WrongSteps:
    """A solution and its wrong steps, numbered from 1 as in the data set.

    ``numbers`` are the numbers of the think steps of ``case``; steps without text are left out. ``first_error``: None if
    no step is wrong. ``wrong``: all wrong steps, or None if only the first one is known.
    """

    case: JudgeCase
    numbers: tuple[int, ...]
    first_error: int | None
    wrong: frozenset[int] | None = None

    def __post_init__(self) -> None:
        for number in {self.first_error, *(self.wrong or ())} - {None, *self.numbers}:
            raise InputError(f"expected wrong steps among the {len(self.numbers)} with a text, got step {number}")
        if self.wrong is not None and self.first_error != min(self.wrong, default=None):
            raise InputError(f"expected the first of the wrong steps {sorted(self.wrong)}, got {self.first_error}")

    @property
    def known_right(self) -> frozenset[int]:
        """The steps known to be right: all but the wrong ones, or those before the first error if only that is known."""
        if self.wrong is not None:
            return frozenset(self.numbers) - self.wrong
        return frozenset(n for n in self.numbers if self.first_error is None or n < self.first_error)

    @property
    def known_labels(self) -> tuple[StepLabel | None, ...]:
        """The true label of each step of the case as far as the data say it; None where they do not.

        If the answer is right, a wrong step is INCORRECT and a right one CORRECT, whether or not a reflection corrected it.
        If it is wrong, no label is known: which steps the answer adopts was not annotated. Nor was the answer block.
        """
        if self.case.outcome is not Outcome.CORRECT:
            return (None,) * len(self.case.steps)
        wrong = frozenset({self.first_error} - {None}) if self.wrong is None else self.wrong
        labels = dict.fromkeys(self.known_right, StepLabel.CORRECT) | {
            n: StepLabel.INCORRECT for n in wrong if n is not None
        }
        return (*(labels.get(n) for n in self.numbers), *(None for step in self.case.steps if step.is_answer))

    def flagged(self, verdict: Verdict) -> frozenset[int]:
        """Return the numbers of the steps that a verdict flags."""
        thinks = self.case.steps[: len(self.numbers)]
        labels = labels_at(verdict, thinks)
        return frozenset(n for n, label in zip(self.numbers, labels, strict=True) if label in WRONG_LABELS)


def make_record(
    problem: Problem,
    steps: Sequence[str],
    answer: str,
    outcome: Outcome,
    first_error: int | None,
    wrong: frozenset[int] | None = None,
) -> WrongSteps:
    """Build a solution whose think block has one paragraph per step (blank lines inside are removed), then ``answer``.

    Raises:
        InputError: the text does not split into these steps again, or a wrong step has no text.
    """
    texts = {number: BLANK_LINES.sub("\n", step.strip()) for number, step in enumerate(steps, start=1) if step.strip()}
    answer = answer.strip()
    if not texts or not answer:
        raise InputError(f"expected at least one step and an answer, got {len(texts)} steps and the answer {answer!r}")
    if any(THINK_END in part for part in (*texts.values(), answer)):
        raise InputError(f"expected steps of a think block, got the tag {THINK_END} inside one")
    think = "\n\n".join(texts.values())
    text = f"{think}\n{THINK_END}\n\n{answer}"
    starts = [0, *accumulate(len(step) + 2 for step in texts.values())][:-1]
    if [start for start, _ in paragraph_spans(text, len(think) + 1)] != starts:
        raise InputError(
            "expected steps that end what they open, got a formula or code block that runs into another step"
        )
    # Only the text is labelled, so one token per character replaces a tokenizer.
    tokens = tuple(range(len(text)))
    ids, nothing = token_ints(tokens, "tokens"), np.zeros(len(text), np.float32)
    solution = Solution(problem.uid, 0, ids[:0], ids, nothing, StopReason.EOS, 0, text, ids)
    division = ThinkTags().divide(text)
    case = JudgeCase(problem, solution, outcome, steps_from_starts(text, starts, tokens, division), division)
    return WrongSteps(case, tuple(texts), first_error, wrong)


class DetectionResult(enum.Enum):
    """Result of a verdict on a solution: the first five if it has an error, the last three if it is error-free."""

    FIRST_ERROR = "first error flagged first"
    TOO_EARLY = "a right step flagged before it"
    TOO_LATE = "only later steps flagged"
    MISSED = "nothing flagged (error missed)"
    MISSED_ABSTAINED = "abstained (with an error)"
    CLEAN = "nothing flagged"
    FALSE_ALARM = "a step flagged (false alarm)"
    CLEAN_ABSTAINED = "abstained"


WITH_ERROR, ERROR_FREE = tuple(DetectionResult)[:5], tuple(DetectionResult)[5:]


def detection_result(record: WrongSteps, verdict: Verdict) -> DetectionResult:
    """Compare a verdict with the known wrong steps."""
    first = min(record.flagged(verdict), default=None)
    if record.first_error is None:
        if verdict.abstained:
            return DetectionResult.CLEAN_ABSTAINED
        return DetectionResult.CLEAN if first is None else DetectionResult.FALSE_ALARM
    if verdict.abstained:
        return DetectionResult.MISSED_ABSTAINED
    if first is None:
        return DetectionResult.MISSED
    if first == record.first_error:
        return DetectionResult.FIRST_ERROR
    return DetectionResult.TOO_EARLY if first < record.first_error else DetectionResult.TOO_LATE


@dataclass
class ErrorScores:
    """Counts and the scores computed from them; a score without any case to compute it from is None.

    A solution on which the judge abstains counts as undetected, as ProcessBench counts a critic's reply without a verdict;
    its steps count as unflagged and are left out of ``right``.
    """

    results: Counter[DetectionResult] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    """Steps of solutions whose wrong steps are all known: the wrong ones, the flagged ones, and those that are both."""
    right: Counter[str] = field(default_factory=Counter)
    """Steps of judged solutions that are known to be right, and how many of them were flagged."""

    def add(self, record: WrongSteps, verdict: Verdict) -> None:
        """Count a verdict."""
        flagged = record.flagged(verdict)
        self.results[detection_result(record, verdict)] += 1
        if record.wrong is not None:
            self.wrong.update(wrong=len(record.wrong), flagged=len(flagged), both=len(record.wrong & flagged))
        if not verdict.abstained:
            self.right.update(steps=len(record.known_right), flagged=len(record.known_right & flagged))

    def __add__(self, other: ErrorScores) -> ErrorScores:
        return ErrorScores(self.results + other.results, self.wrong + other.wrong, self.right + other.right)

    def scores(self) -> dict[str, float | None]:
        """Return all scores by the names under which they are printed."""
        detected, n_wrong = self.results[DetectionResult.FIRST_ERROR], sum(self.results[r] for r in WITH_ERROR)
        clean, n_clean = self.results[DetectionResult.CLEAN], sum(self.results[r] for r in ERROR_FREE)
        with_error, without = _share(detected, n_wrong), _share(clean, n_clean)
        precision = _share(self.wrong["both"], self.wrong["flagged"] if self.wrong["wrong"] else 0)
        recall = _share(self.wrong["both"], self.wrong["wrong"])
        abstained = self.results[DetectionResult.MISSED_ABSTAINED] + self.results[DetectionResult.CLEAN_ABSTAINED]
        return {
            "accuracy, with an error": with_error,
            "accuracy, error-free": without,
            "F1 (harmonic mean)": _harmonic(with_error, without),
            "abstained share": _share(abstained, n_wrong + n_clean),
            "wrong steps: precision": precision,
            "wrong steps: recall": recall,
            "wrong steps: F1": _harmonic(precision, recall),
            "right steps flagged": _share(self.right["flagged"], self.right["steps"]),
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _harmonic(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 2 * a * b / (a + b) if a + b else 0.0


class ErrorDetectionReport:
    """Records and the scores of a judge's verdicts on them, in one column per outcome because the protocols differ.

    Args:
        records: the solutions to judge.
        unusable: reasons for which rows of the data were left out, with their counts.
    """

    def __init__(self, records: Sequence[WrongSteps], unusable: Counter[str] | None = None) -> None:
        self.records = records
        self.unusable = unusable or Counter()
        self.by_outcome = {correct: ErrorScores() for correct in (True, False)}

    @property
    def cases(self) -> list[JudgeCase]:
        """The cases to judge."""
        return [record.case for record in self.records]

    def truth(self, index: int) -> dict[str, Any]:
        """Return the first wrong step, and all wrong steps if they are known, as JSON values."""
        record = self.records[index]
        return {"first_error": record.first_error, "wrong": None if record.wrong is None else sorted(record.wrong)}

    def known_labels(self, index: int) -> tuple[StepLabel | None, ...]:
        """Return the known labels of a record's steps, see ``WrongSteps.known_labels``."""
        return self.records[index].known_labels

    def add(self, index: int, verdict: Verdict) -> None:
        """Count the verdict on a record."""
        record = self.records[index]
        self.by_outcome[record.case.outcome is Outcome.CORRECT].add(record, verdict)

    def heading(self) -> str:
        """Return the lines that describe the records: how many have errors, correct answers, and were left out."""
        errors = sum(r.first_error is not None for r in self.records)
        right = sum(r.case.outcome is Outcome.CORRECT for r in self.records)
        lines = [
            f"{len(self.records)} solutions: {errors} with an error, {len(self.records) - errors} error-free; "
            f"{right} with a right answer; {sum(self.unusable.values())} rows left out"
        ]
        lines += [f"  {count} left out: {reason}" for reason, count in self.unusable.most_common()]
        if not errors:
            lines.append("No solution has an error: only false alarms can be measured, there is no F1.")
        if errors == len(self.records):
            lines.append("No solution is error-free: false alarms show in right steps only, there is no F1.")
        return "\n".join(lines)

    def tables(self) -> str:
        """Return the results and scores of all solutions, and of those with a right and with a wrong answer, as text."""
        right, wrong = self.by_outcome[True], self.by_outcome[False]
        columns = [right + wrong, right, wrong]
        lines = [f"{'':<34}" + "".join(f"{name:>14}" for name in ("all", "answer right", "answer wrong"))]
        for title, results in (("solutions with an error", WITH_ERROR), ("error-free solutions", ERROR_FREE)):
            lines.append(f"{title:<34}" + "".join(f"{sum(c.results[r] for r in results):>14}" for c in columns))
            lines += [f"  {r.value:<32}" + "".join(f"{c.results[r]:>14}" for c in columns) for r in results]
        scores = [c.scores() for c in columns]
        shown = [name for name, score in scores[0].items() if score is not None]
        for name in shown:
            cells = (score[name] for score in scores)
            lines.append(f"{name:<34}" + "".join(f"{'-' if c is None else f'{c:.4f}':>14}" for c in cells))
        return "\n".join(lines)
