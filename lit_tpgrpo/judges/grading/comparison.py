"""PairwiseComparison: which of two solutions is better, for all pairs of a group and in both orders (Think-RM)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.async_bridge import gather_or_cancel
from lit_tpgrpo.chat.base import ChatClient
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.backed import OnDown
from lit_tpgrpo.judges.generative.limits import RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.queries import JudgeClient, QueryConfig
from lit_tpgrpo.judges.generative.verdicts import VerdictError
from lit_tpgrpo.judges.grading.asking import GroupAsker
from lit_tpgrpo.judges.grading.questions import ComparisonVerdict, GroupQuestion, SolutionGroup

COUNTERS = (
    "comparison_pairs",
    "comparison_pairs_unanswered",
    "comparison_pairs_consistent",
    "comparison_pairs_swapped",
)
"""Pairs compared; those that count as ties because an order was not answered; of the pairs answered in both orders those whose
orders name the same winner, and how many there are."""


@dataclass(frozen=True, slots=True)
class PreferenceMatrix:
    """Preferences among the solutions of a group: ``values[i][j]`` is positive if i is better than j, and antisymmetric.

    ``unanswered`` are the pairs (i, j), i < j, whose value is 0 because they could not be compared.
    """

    values: tuple[tuple[float, ...], ...]
    unanswered: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PairVotes:
    """Preferences for the first of a pair: ``shown_first`` where it was shown first, ``shown_second`` where second."""

    shown_first: tuple[int, ...]
    shown_second: tuple[int, ...] = ()

    @property
    def consistent(self) -> bool:
        """Whether both orders name the same winner, or neither does."""
        return _sign(sum(self.shown_first)) == _sign(sum(self.shown_second))


def pair_value(votes: PairVotes, swap: bool = True) -> float | None:
    """Return the preference for the first of a pair: the mean over both orders of the mean over an order's votes.

    None if an order that was asked for has no vote. One order alone says nothing: a judge that prefers what it reads first
    would decide the pair by it.

    >>> pair_value(PairVotes((3, 1), (-1, 0)))
    0.75
    >>> pair_value(PairVotes((1,), (-1,)))
    0.0
    """
    if not votes.shown_first or (swap and not votes.shown_second):
        return None
    first = fmean(votes.shown_first)
    return (first + fmean(votes.shown_second)) / 2 if swap else first


def matrix_of(n: int, pairs: Mapping[tuple[int, int], float | None]) -> PreferenceMatrix:
    """Build the matrix of n solutions from the values of the pairs (i, j), i < j; None counts as a tie."""
    values = [[0.0] * n for _ in range(n)]
    for (i, j), value in pairs.items():
        values[i][j], values[j][i] = value or 0.0, -(value or 0.0)
    unanswered = tuple(sorted(pair for pair, value in pairs.items() if value is None))
    return PreferenceMatrix(tuple(map(tuple, values)), unanswered)


@checked_arguments()
class PairwiseComparison(GroupAsker):
    """Compare all pairs of the solutions of a group (Think-RM, arXiv 2505.16265, code IlgeeHong/Think-RM@2976ace7).

    Each pair is asked about in both orders, ``votes`` times each; the preference is the mean over votes and orders, so that a
    judge that prefers what it reads first prefers nothing. The source asks once a pair, in one order (``swap: false``). A
    reply may say that neither is better, which the source's may not. A pair of which one order has no readable reply is a tie,
    as an unreadable reply is in the source, and counted.

    Args:
        chat: the LLM: ``OpenAIChat`` or ``LocalChat``.
        votes: replies for each order of each pair; 1 or 4 in the source.
        scale: preferences from -1 to 1 or from -3 to 3, both in the source.
        swap: whether pairs are asked about in both orders.
        query: temperature and token limits; the default samples at 0.6, the source's.
        limits: concurrency, rate, retries, patience.
        budget: tokens and seconds that one round may use.
        prompts: folder of a prompt set; None uses the prompts of the package.
        store: folder that caches replies; None caches nothing.
        on_down: ``abstain`` leaves pairs unanswered if the judge answers nothing, ``stop`` ends the run.
        max_shown_chars: most characters of both solutions in one prompt; longer ones lose their middle.
        price_in: price of a million prompt tokens, for the metric ``cost``.
        price_out: price of a million completion tokens.

    Raises:
        ConfigError: a setting or prompt file is invalid, or several votes would all be the same (temperature 0).
    """

    def __init__(
        self,
        chat: ChatClient,
        votes: int = 1,
        scale: Literal[1, 3] = 1,
        swap: bool = True,
        query: QueryConfig | None = None,
        limits: RequestLimits | None = None,
        budget: RoundBudget | None = None,
        prompts: str | Path | None = None,
        store: str | Path | None = "runs/judge_replies",
        on_down: OnDown = "abstain",
        max_shown_chars: int = 100_000,
        price_in: float = 0.0,
        price_out: float = 0.0,
    ) -> None:
        if votes < 1 or scale not in (1, 3):
            raise ConfigError(f"votes must be at least 1 and scale 1 or 3, got {votes} and {scale}")
        query = query or QueryConfig(temperature=0.6)
        super().__init__(
            chat, query, limits, budget, prompts, store, on_down, max_shown_chars, price_in, price_out, COUNTERS
        )
        if votes > 1:
            self.check_repeatable()
        self.votes = votes
        self.scale: Literal[1, 3] = scale
        self.swap = swap

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that preferences depend on."""
        return {**super().settings, "votes": self.votes, "scale": self.scale, "swap": self.swap}

    def compare(self, groups: Sequence[SolutionGroup]) -> Generator[tuple[int, PreferenceMatrix], None, None]:
        """Compare groups and yield (index, matrix) as they complete; closing the iterator cancels requests in flight."""
        with closing(self.each(groups, self._matrix)) as results:
            yield from results

    async def _matrix(self, client: JudgeClient, group: SolutionGroup) -> PreferenceMatrix:
        pairs = list(combinations(range(len(group.texts)), 2))
        votes = await gather_or_cancel(*(self._pair(client, group, i, j) for i, j in pairs))
        values = [pair_value(vote, self.swap) for vote in votes]
        both = [vote for vote in votes if vote.shown_first and vote.shown_second]
        self.own.add(
            comparison_pairs=len(pairs),
            comparison_pairs_unanswered=values.count(None),
            comparison_pairs_consistent=sum(vote.consistent for vote in both),
            comparison_pairs_swapped=len(both),
        )
        return matrix_of(len(group.texts), dict(zip(pairs, values, strict=True)))

    async def _pair(self, client: JudgeClient, group: SolutionGroup, i: int, j: int) -> PairVotes:
        orders = [(i, j), (j, i)] if self.swap else [(i, j)]
        asked = [(order, draw) for order in orders for draw in range(self.votes)]
        replies = await gather_or_cancel(*(self._preference(client, group, order, draw) for order, draw in asked))
        given = [(order, value) for (order, _), value in zip(asked, replies, strict=True) if value is not None]
        first = tuple(value for order, value in given if order == (i, j))
        return PairVotes(first, tuple(-value for order, value in given if order == (j, i)))

    async def _preference(
        self, client: JudgeClient, group: SolutionGroup, order: tuple[int, int], draw: int
    ) -> int | None:
        def check(verdict: ComparisonVerdict) -> tuple[int, int]:
            if abs(verdict.preference) > self.scale:
                raise VerdictError(f"preference {verdict.preference} is not in [-{self.scale}, {self.scale}]")
            return verdict.preference, 0

        return await self.ask(
            client, GroupQuestion.COMPARISON, group, order, ComparisonVerdict, check, draw, scale=self.scale
        )


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
