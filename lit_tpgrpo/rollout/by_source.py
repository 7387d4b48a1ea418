"""Metrics of a round by problem source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lit_tpgrpo.records import JudgedGroup, Outcome, Problem

_MOST_SOURCES = 20
"""Problems with a source each would be a curve each."""


@dataclass(frozen=True)
class SourceTally:
    """Numbers of problems, decided solutions and correct ones, by source."""

    problems: Mapping[str, int]
    decided: Mapping[str, int]
    correct: Mapping[str, int]

    def __add__(self, other: SourceTally) -> SourceTally:
        return SourceTally(
            Counter(self.problems) + Counter(other.problems),
            Counter(self.decided) + Counter(other.decided),
            Counter(self.correct) + Counter(other.correct),
        )

    def metrics(self) -> dict[str, float]:
        """Return ``sources/NAME/problems`` and ``sources/NAME/accuracy``, the share of correct among decided solutions.

        A source without a decided solution has no accuracy.
        """
        problems = {f"sources/{name}/problems": float(count) for name, count in sorted(self.problems.items())}
        accuracies = {
            f"sources/{name}/accuracy": self.correct.get(name, 0) / count
            for name, count in sorted(self.decided.items())
            if count
        }
        return problems | accuracies


def has_few_sources(problems: Iterable[Problem]) -> bool:
    """Return whether problems come from several sources, and from few enough for metrics of each."""
    return 1 < len({problem.source for problem in problems}) <= _MOST_SOURCES


def tally_sources(groups: Iterable[JudgedGroup]) -> SourceTally:
    """Count the groups of one rank by the source of their problem."""
    problems: Counter[str] = Counter()
    decided: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for group in groups:
        name = group.problem.source
        problems[name] += 1
        decided[name] += len(group.decided)
        correct[name] += sum(s.outcome is Outcome.CORRECT for s in group.decided)
    return SourceTally(problems, decided, correct)
