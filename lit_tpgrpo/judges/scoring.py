"""How well a judge labels steps whose truth is known: precision, recall and F1 per label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lit_tpgrpo.judges.base import Judge, JudgeCase
from lit_tpgrpo.records import Step, StepLabel, Verdict


@dataclass(frozen=True)
class LabelCounts:
    """Steps by (true label, given label). ABSTAINED is a given label only: it costs recall, not precision."""

    pairs: Counter[tuple[StepLabel, StepLabel]] = field(default_factory=Counter)

    def add(self, case: JudgeCase, truth: Sequence[StepLabel], verdict: Verdict) -> None:
        """Count a verdict. Truth is per rule-made step; a judge that re-segments is read at each one's start."""
        for step, true in zip(case.steps, truth, strict=True):
            self.pairs[true, label_at(verdict, step)] += 1

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(self.pairs + other.pairs)

    def support(self, label: StepLabel) -> int:
        """Steps that truly have this label."""
        return sum(n for (true, _), n in self.pairs.items() if true is label)

    def present(self) -> list[StepLabel]:
        """The labels that truly occur."""
        return [label for label in StepLabel if self.support(label)]

    def precision(self, label: StepLabel) -> float:
        """Share of the steps given this label that truly have it; 0 where it was never given."""
        given = sum(n for (_, g), n in self.pairs.items() if g is label)
        return self.pairs[label, label] / given if given else 0.0

    def recall(self, label: StepLabel) -> float:
        """Share of the steps that truly have this label which were given it; 0 where none has it."""
        support = self.support(label)
        return self.pairs[label, label] / support if support else 0.0

    def f1(self, label: StepLabel) -> float:
        """Harmonic mean of precision and recall."""
        p, r = self.precision(label), self.recall(label)
        return 2 * p * r / (p + r) if p + r else 0.0

    def metrics(self) -> dict[str, float]:
        """Everything as flat scalars, with the share of steps left ABSTAINED."""
        total = sum(self.pairs.values())
        abstained = sum(n for (_, given), n in self.pairs.items() if given is StepLabel.ABSTAINED)
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
        """The same as text, one label a line."""
        lines = [f"{'label':<10} {'precision':>9} {'recall':>7} {'F1':>7} {'steps':>7}"]
        for label in self.present():
            p, r, f = self.precision(label), self.recall(label), self.f1(label)
            lines.append(f"{label.value:<10} {p:>9.4f} {r:>7.4f} {f:>7.4f} {self.support(label):>7}")
        return "\n".join(lines)


def count_labels(
    judge: Judge,
    labelled: Sequence[tuple[JudgeCase, tuple[StepLabel, ...]]],
    watched: Callable[[Iterable[tuple[int, Verdict]]], Iterable[tuple[int, Verdict]]] = iter,
) -> LabelCounts:
    """Judge all cases and count. The verdicts pass through ``watched`` as they come, a progress bar say."""
    counts = LabelCounts()
    for i, verdict in watched(judge.judge([case for case, _ in labelled])):
        counts.add(*labelled[i], verdict)
    return counts


def label_at(verdict: Verdict, step: Step) -> StepLabel:
    """The label that a verdict gives to the place where a step begins; ABSTAINED where it has none."""
    spans = zip(verdict.steps, verdict.labels, strict=True)
    return next((label for s, label in spans if s.start <= step.start < max(s.end, s.start + 1)), StepLabel.ABSTAINED)
