"""Scores of a judge on steps with known labels: precision, recall and F1 per label."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lit_tpgrpo.judges.base import Judge, JudgeCase
from lit_tpgrpo.records import Step, StepLabel, Verdict

ALARM_F1 = 0.8
"""F1 of a label below which an audit warns of it."""


@dataclass(frozen=True)
class LabelCounts:
    """Confusion counts: steps by (true label, predicted label).

    ABSTAINED occurs as a predicted label only: it lowers recall, not precision.
    """

    pairs: Counter[tuple[StepLabel, StepLabel]] = field(default_factory=Counter)

    def add(self, case: JudgeCase, truth: Sequence[StepLabel | None], verdict: Verdict) -> None:
        """Count a verdict. ``truth`` has one label per step of the case; steps whose label is not known (None) do not count.

        If the judge re-segmented, its labels are read at the start of each of these steps.
        """
        for given, true in zip(labels_at(verdict, case.steps), truth, strict=True):
            if true is not None:
                self.pairs[true, given] += 1

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(self.pairs + other.pairs)

    def support(self, label: StepLabel) -> int:
        """Return the number of steps with this true label."""
        return sum(n for (true, _), n in self.pairs.items() if true is label)

    def present(self) -> list[StepLabel]:
        """Return the true labels that occur."""
        return [label for label in StepLabel if self.support(label)]

    def predicted(self, label: StepLabel) -> int:
        """Return the number of steps that the judge gave this label."""
        return sum(n for (_, given), n in self.pairs.items() if given is label)

    def precision(self, label: StepLabel) -> float:
        """Return the share of the steps predicted as this label that have it; 0 if it was never predicted."""
        predicted = self.predicted(label)
        return self.pairs[label, label] / predicted if predicted else 0.0

    def recall(self, label: StepLabel) -> float:
        """Return the share of the steps with this true label that were predicted as it; 0 if no step has it."""
        support = self.support(label)
        return self.pairs[label, label] / support if support else 0.0

    def f1(self, label: StepLabel) -> float:
        """Return the harmonic mean of precision and recall."""
        p, r = self.precision(label), self.recall(label)
        return 2 * p * r / (p + r) if p + r else 0.0

    def alarms(self, threshold: float) -> list[StepLabel]:
        """Return the true labels that occur and whose F1 is below the threshold: those that an audit warns of."""
        return [label for label in self.present() if self.f1(label) < threshold]

    def metrics(self) -> dict[str, float]:
        """Return all scores as flat scalars, and the share of steps that are ABSTAINED."""
        total = sum(self.pairs.values())
        abstained = sum(n for (_, predicted), n in self.pairs.items() if predicted is StepLabel.ABSTAINED)
        scores = {
            f"{name}_{label.value}": value
            for label in self.present()
            for name, value in (
                ("precision", self.precision(label)),
                ("recall", self.recall(label)),
                ("f1", self.f1(label)),
            )
        }
        return scores | {"abstained_share": abstained / total if total else 0.0}

    def table(self) -> str:
        """Return the scores as a text table, one line per label."""
        lines = [f"{'label':<10} {'precision':>9} {'recall':>7} {'F1':>7} {'steps':>7}"]
        for label in self.present():
            p, r, f = self.precision(label), self.recall(label), self.f1(label)
            lines.append(f"{label.value:<10} {p:>9.4f} {r:>7.4f} {f:>7.4f} {self.support(label):>7}")
        return "\n".join(lines)


def count_labels(
    judge: Judge,
    labelled: Sequence[tuple[JudgeCase, tuple[StepLabel, ...]]],
    progress: Callable[[Iterable[tuple[int, Verdict]]], Iterable[tuple[int, Verdict]]] = iter,
) -> LabelCounts:
    """Judge all cases and count the labels. ``progress`` wraps the iterator of verdicts, e.g. with a progress bar."""
    counts = LabelCounts()
    for i, verdict in progress(judge.judge([case for case, _ in labelled])):
        counts.add(*labelled[i], verdict)
    return counts


def labels_at(verdict: Verdict, steps: Sequence[Step]) -> list[StepLabel]:
    """Return the verdict's labels at the characters where steps begin; ABSTAINED where no step of the verdict covers one.

    Of several that cover it the first counts.
    """
    spans = enumerate(zip(verdict.steps, verdict.labels, strict=True))
    ahead = sorted(((s.start, max(s.end, s.start + 1), n, label) for n, (s, label) in spans), reverse=True)
    begun: list[tuple[int, int, StepLabel]] = []  # a heap of (number, end, label)
    labels = [StepLabel.ABSTAINED] * len(steps)
    for i in sorted(range(len(steps)), key=lambda i: steps[i].start):
        while ahead and ahead[-1][0] <= steps[i].start:
            _, end, n, label = ahead.pop()
            heapq.heappush(begun, (n, end, label))
        while begun and begun[0][1] <= steps[i].start:
            heapq.heappop(begun)
        if begun:
            labels[i] = begun[0][2]
    return labels
