"""Searches over whole solutions: best-of-n and voting weighted by step scores (Math-Shepherd, arXiv 2312.08935)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.metrics.scores import vote_key
from lit_tpgrpo.search.base import ROOT, Aggregate, Expand, Partial, Plan, Search, solution_score
from lit_tpgrpo.text.answers import extract_boxed
from lit_tpgrpo.text.formats.base import SolutionFormat
from lit_tpgrpo.text.formats.think_tags import ThinkTags


def best_of(scores: Sequence[float]) -> int:
    """Return the index of the highest score, the first of equal ones.

    >>> best_of([0.9, 0.6, 0.9])
    0
    """
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def weighted_vote(answers: Sequence[str | None], scores: Sequence[float]) -> int:
    """Return the index of the best solution with the answer whose solutions' scores sum to most.

    Answers are the same if they are written alike (``vote_key``). Of equal sums the one with the best solution wins, then the
    earlier; without any answer the best solution.

    >>> weighted_vote(["A", "B", "B"], [0.9, 0.6, 0.5])  # 1.1 against 0.9
    1
    """
    sums: defaultdict[str, float] = defaultdict(float)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for i, (answer, score) in enumerate(zip(answers, scores, strict=True)):
        if answer is not None:
            sums[vote_key(answer)] += score
            members[vote_key(answer)].append(i)
    if not sums:
        return best_of(scores)
    bests = {key: max(indices, key=lambda i: (scores[i], -i)) for key, indices in members.items()}
    return bests[max(sums, key=lambda key: (sums[key], scores[bests[key]], -bests[key]))]


def answer_of(partial: Partial, format: SolutionFormat) -> str | None:
    """Return the boxed answer of a whole solution; None without one."""
    block = format.divide(partial.text).answer_text(partial.text) if partial.is_whole else None
    return None if block is None else extract_boxed(block)


def best_solution(solutions: Sequence[Partial], aggregate: Aggregate) -> Partial:
    """Return the solution with the highest score, the first of equal ones; one that the token limit cut only if all were."""
    return max(solutions, key=lambda s: (s.is_whole, solution_score(s, aggregate)))


@checked_arguments()
class BestOfN(Search):
    """Sample n solutions and take the one with the highest score; one that the token limit cut only if all were.

    Args:
        n: solutions of a problem.
        aggregate: how step scores become the solution's: ``min``, ``mean``, ``product`` or ``last``.

    Raises:
        ConfigError: n is not positive.
    """

    def __init__(self, n: int = 8, aggregate: Aggregate = "min") -> None:
        check_positive("search: ", n=n)
        self.n = n
        self.aggregate: Aggregate = aggregate

    def plan(self) -> Plan:
        (solutions,) = yield Expand((ROOT,), self.n, whole=True)
        return best_solution(solutions, self.aggregate)


@checked_arguments()
class WeightedVoting(Search):
    """Sample n solutions and take the answer whose solutions' scores sum to most, see ``weighted_vote``.

    Without any answer it takes the best solution as ``BestOfN`` does.

    Args:
        n: solutions of a problem.
        aggregate: how step scores become the solution's.
        format: where a solution's answer block lies; the answer is its last box.

    Raises:
        ConfigError: n is not positive.
    """

    def __init__(self, n: int = 8, aggregate: Aggregate = "min", format: SolutionFormat | None = None) -> None:
        check_positive("search: ", n=n)
        self.n = n
        self.aggregate: Aggregate = aggregate
        self.format = ThinkTags() if format is None else format

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it chooses by."""
        return {"n": self.n, "aggregate": self.aggregate, "format": settings_of(self.format)}

    def plan(self) -> Plan:
        (solutions,) = yield Expand((ROOT,), self.n, whole=True)
        answers = [answer_of(s, self.format) for s in solutions]
        if not any(answer is not None for answer in answers):
            return best_solution(solutions, self.aggregate)
        return solutions[weighted_vote(answers, [solution_score(s, self.aggregate) for s in solutions])]
