"""Searches step by step: greedy with back-tracking (HGS-PRM, arXiv 2310.10080) and beam search."""

from __future__ import annotations

from collections.abc import Sequence

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.search.base import ROOT, Aggregate, Expand, Partial, Plan, Search, solution_score


@checked_arguments()
class GreedyStepSearch(Search):
    """Take the best next step; go back to the parent's next child where all next steps are negative (HGS-PRM).

    A step is positive if its score is at least ``positive``, negative if it is at most ``negative``, neutral between. Of the
    children positive ones are tried first, neutral ones only after them, negative ones never. If nothing is left to try, the
    prompt is expanded again, unless the token limit cut all of the last next steps: solutions that long would be cut again.
    Then, and after ``max_expansions``, the best so far is taken: a whole solution with the highest score, or else the longest
    partial one, which is then sampled to its end. Second-hand: no pseudo-code was found, so that the order of back-tracking
    and what happens at the limits are our reading, and the published limit is unknown.

    Args:
        children: next steps sampled at each expansion; unpublished.
        positive: lowest score of a positive step; unpublished. The source's model names one of three classes (second-hand).
        negative: highest score of a negative step; unpublished, likewise.
        max_expansions: expansions of a problem; the source's limit is unpublished.

    Raises:
        ConfigError: a number is not positive, or the thresholds are not 0 <= negative < positive <= 1.
    """

    def __init__(
        self, children: int = 4, positive: float = 0.8, negative: float = 0.2, max_expansions: int = 100
    ) -> None:
        check_positive("search: ", children=children, max_expansions=max_expansions)
        if not 0 <= negative < positive <= 1:
            raise ConfigError(f"search: expected 0 <= negative < positive <= 1, got {negative} and {positive}")
        self.children = children
        self.positive = positive
        self.negative = negative
        self.max_expansions = max_expansions

    def plan(self) -> Plan:
        levels: list[list[Partial]] = []  # what is left to try: the children of the prompt, of one of them, ...
        parent = best = ROOT
        for _ in range(self.max_expansions):
            (children,) = yield Expand((parent,), self.children)
            best = max([best, *children], key=self._rank)
            levels.append(self._to_try(children))
            chosen = _next(levels)
            if chosen is not None and chosen.is_whole:
                return chosen
            if chosen is None and all(child.stop is StopReason.LENGTH for child in children):
                break
            parent = ROOT if chosen is None else chosen
        if best.stop is None:
            ((best,),) = yield Expand((best,), 1, whole=True)
        return best

    def _to_try(self, children: Sequence[Partial]) -> list[Partial]:
        """Return the distinct children that are not negative, positive ones first, better ones first among equals."""
        tried = [child for child in _distinct(children) if child.scores[-1] > self.negative]
        return sorted(tried, key=lambda c: (c.scores[-1] < self.positive, -c.scores[-1]))

    def _rank(self, partial: Partial) -> tuple[bool, float, int]:
        good = not partial.scores or partial.scores[-1] > self.negative
        if partial.is_whole:
            return True, partial.scores[-1], 0
        return False, float(good and partial.stop is None), len(partial.steps)


def _distinct(partials: Sequence[Partial]) -> list[Partial]:
    """Return the first of the partial solutions with the same text, in order."""
    distinct: dict[str, Partial] = {}
    for partial in partials:
        distinct.setdefault(partial.text, partial)
    return list(distinct.values())


def _next(levels: list[list[Partial]]) -> Partial | None:
    """Take the next partial solution to extend: the best one left of the deepest level; None if nothing is left."""
    while levels:
        if not levels[-1]:
            levels.pop()
        elif (chosen := levels[-1].pop(0)).stop is None or chosen.is_whole:
            return chosen
    return None


@checked_arguments()
class BeamSearch(Search):
    """Keep the best partial solutions and extend each by one step at a time, until all that are kept have ended.

    Args:
        width: partial solutions that are kept.
        children: next steps sampled for each of them; the prompt gets ``width`` times as many.
        aggregate: how step scores become the score of a partial solution, by which it is kept.
        max_steps: steps after which the best one is sampled to its end.

    Raises:
        ConfigError: a number is not positive.
    """

    def __init__(self, width: int = 4, children: int = 4, aggregate: Aggregate = "min", max_steps: int = 100) -> None:
        check_positive("search: ", width=width, children=children, max_steps=max_steps)
        self.width = width
        self.children = children
        self.aggregate: Aggregate = aggregate
        self.max_steps = max_steps

    def plan(self) -> Plan:
        (beam,) = yield Expand((ROOT,), self.children * self.width)
        beam = self._best(beam)
        for _ in range(self.max_steps - 1):
            growing = tuple(partial for partial in beam if partial.stop is None)
            if not growing:
                break
            grown = yield Expand(growing, self.children)
            ended = [partial for partial in beam if partial.stop is not None]
            beam = self._best([*ended, *(child for children in grown for child in children)])
        best = self._best(beam)[0]
        if best.stop is None:
            ((best,),) = yield Expand((best,), 1, whole=True)
        return best

    def _best(self, partials: Sequence[Partial]) -> list[Partial]:
        """Return the best distinct partial solutions; those that the token limit cut come last."""
        ranked = sorted(
            _distinct(partials),
            key=lambda p: (p.stop is not None and not p.is_whole, -solution_score(p, self.aggregate)),
        )
        return ranked[: self.width]
