"""PrinciplesGrader: principles, critique and grades of a group of solutions, several times, the best gradings summed (SPCT)."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.async_bridge import gather_or_cancel
from lit_tpgrpo.chat.base import ChatClient
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.backed import OnDown
from lit_tpgrpo.judges.generative.limits import RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.numbered_solution import prompt_text
from lit_tpgrpo.judges.generative.queries import JudgeClient, QueryConfig
from lit_tpgrpo.judges.generative.verdicts import VerdictError
from lit_tpgrpo.judges.grading.asking import GroupAsker
from lit_tpgrpo.judges.grading.questions import (
    GradingVerdict,
    GroupQuestion,
    MetaVerdict,
    SolutionGroup,
    delimiter,
)
from lit_tpgrpo.seeds import derived_seed

COUNTERS = ("grading_samples", "grading_samples_unanswered", "grading_meta_unanswered", "grading_groups_without")
"""Gradings asked for; those without a readable reply; gradings without a meta score; groups without any grading."""


@dataclass(frozen=True, slots=True)
class GradingSample:
    """One grading of a group, in the order of its solutions. ``meta`` is its score, None without one."""

    grades: tuple[int, ...]
    meta: float | None = None
    principles: tuple[tuple[str, int], ...] = ()
    critiques: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupGrades:
    """Grades of a group: ``totals`` has the sum over the gradings ``kept`` (indices into ``samples``) for each solution.

    Without a grading that could be read ``totals`` is None.
    """

    totals: tuple[float, ...] | None
    kept: tuple[int, ...]
    samples: tuple[GradingSample, ...]

    @property
    def means(self) -> tuple[float, ...] | None:
        """The mean grade of each solution, on the scale ``GRADES``; comparable between groups, as sums are not."""
        return None if self.totals is None else tuple(total / len(self.kept) for total in self.totals)


def combine_grades(samples: Sequence[GradingSample], keep: float = 0.5) -> GroupGrades:
    """Sum the grades over all gradings or, if any has a meta score, over the share ``keep`` of them with the highest scores.

    At least one is kept; k * keep is rounded down. Gradings without a score come after all others, and of equal ones the
    earlier is kept.

    >>> combine_grades([GradingSample(g) for g in ((5, 7), (6, 6), (8, 4), (4, 9))]).totals
    (23.0, 26.0)
    """
    kept = list(range(len(samples)))
    if any(sample.meta is not None for sample in samples):
        ranked = sorted(kept, key=lambda i: (-_or_lowest(samples[i].meta), i))
        # Rounded first: 100 * 0.29 is 28.999999999999996.
        kept = sorted(ranked[: max(1, math.floor(round(len(samples) * keep, 9)))])
    if not kept:
        return GroupGrades(None, (), ())
    columns = zip(*(samples[i].grades for i in kept), strict=True)
    return GroupGrades(tuple(float(sum(column)) for column in columns), tuple(kept), tuple(samples))


def _or_lowest(score: float | None) -> float:
    return float("-inf") if score is None else score


@checked_arguments()
class PrinciplesGrader(GroupAsker):
    """Grade the solutions of a group by principles and critiques, as SPCT's judge does (arXiv 2504.02495, second-hand).

    Each of k samples shows all solutions in another order, states principles with weights, criticises each solution and
    grades it from 1 to 10. With ``meta`` a second question scores each sample, and the better half is summed; without, all
    are. The paper's meta score comes from a trained scalar model; here the same LLM gives it, which is ours. Samples without a
    readable reply are left out and counted, see ``combine_grades``.

    Args:
        chat: the LLM: ``OpenAIChat`` or ``LocalChat``.
        samples: k, gradings of each group; 1, 8 and 32 in the paper (second-hand).
        meta: whether gradings are scored and selected; not with one sample.
        keep: share of the gradings that is kept then, 1/2 in the paper (second-hand).
        seed: another seed shows solutions in other orders.
        query: temperature and token limits; the default samples at 0.5, the paper's (second-hand).
        limits: concurrency, rate, retries, patience.
        budget: tokens and seconds that one round may use.
        prompts: folder of a prompt set; None uses the prompts of the package.
        store: folder that caches replies; None caches nothing.
        on_down: ``abstain`` leaves groups without grades if the judge answers nothing, ``stop`` ends the run.
        max_shown_chars: most characters of all solutions in one prompt; longer ones lose their middle.
        price_in: price of a million prompt tokens, for the metric ``cost``.
        price_out: price of a million completion tokens.

    Raises:
        ConfigError: a setting or prompt file is invalid, or several samples would all be the same (temperature 0).
    """

    def __init__(
        self,
        chat: ChatClient,
        samples: int = 8,
        meta: bool = True,
        keep: float = 0.5,
        seed: int = 0,
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
        if samples < 1 or not 0 < keep <= 1:
            raise ConfigError(f"samples must be at least 1 and keep in (0, 1], got {samples} and {keep}")
        query = query or QueryConfig(temperature=0.5)
        super().__init__(
            chat, query, limits, budget, prompts, store, on_down, max_shown_chars, price_in, price_out, COUNTERS
        )
        if samples > 1:
            self.check_repeatable()
        self.samples = samples
        self.meta = meta
        self.keep = keep
        self.seed = seed

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that grades depend on."""
        own = {"samples": self.samples, "meta": self.meta, "keep": self.keep, "seed": self.seed}
        return {**super().settings, **own}

    def grade(self, groups: Sequence[SolutionGroup]) -> Generator[tuple[int, GroupGrades], None, None]:
        """Grade groups and yield (index, grades) as they complete; closing the iterator cancels requests in flight."""
        with closing(self.each(groups, self._grades)) as results:
            yield from results

    async def _grades(self, client: JudgeClient, group: SolutionGroup) -> GroupGrades:
        samples = await gather_or_cancel(*(self._sample(client, group, draw) for draw in range(self.samples)))
        answered = [sample for sample in samples if sample is not None]
        self.own.add(grading_samples=len(samples), grading_samples_unanswered=len(samples) - len(answered))
        self.own.add(grading_groups_without=not answered)
        return combine_grades(answered, self.keep)

    def order(self, group: SolutionGroup, draw: int) -> list[int]:
        """Return the order in which a sample shows the solutions: a shuffle by the seed, the texts and the draw alone."""
        order = list(range(len(group.texts)))
        random.Random(derived_seed(self.seed, "order of solutions", group.problem.uid, *group.texts, draw)).shuffle(
            order
        )
        return order

    async def _sample(self, client: JudgeClient, group: SolutionGroup, draw: int) -> GradingSample | None:
        """Grade a group once; None if no reply could be read."""
        order = self.order(group, draw)

        def check(verdict: GradingVerdict) -> tuple[GradingSample, int]:
            if not len(verdict.grades) == len(verdict.critiques) == len(order):
                raise VerdictError(
                    f"{len(verdict.critiques)} critiques and {len(verdict.grades)} grades for {len(order)} solutions"
                )
            principles = tuple((p.principle, p.weight) for p in verdict.principles)
            return GradingSample(
                _restored(verdict.grades, order), None, principles, _restored(verdict.critiques, order)
            ), 0

        total = len(order)
        sample = await self.ask(client, GroupQuestion.GRADING, group, order, GradingVerdict, check, draw, total=total)
        if sample is None or not self.meta or self.samples == 1:
            return sample
        # A solution may have talked the judge into writing what looks like the end of the data, or control tokens.
        share = self.max_shown_chars // len(order)
        said = (*sample.critiques, *(principle for principle, _ in sample.principles))
        score = await self.ask(
            client,
            GroupQuestion.META,
            group,
            order,
            MetaVerdict,
            lambda verdict: (verdict.score, 0),
            draw,
            principles=[(prompt_text(principle, share), weight) for principle, weight in sample.principles],
            critiques=[(k + 1, prompt_text(sample.critiques[i], share), sample.grades[i]) for k, i in enumerate(order)],
            fence=delimiter(group, said),
        )
        self.own.add(grading_meta_unanswered=score is None)
        return replace(sample, meta=None if score is None else float(score))


def _restored(values: Sequence[Any], order: Sequence[int]) -> tuple[Any, ...]:
    """Return values that are given in the order shown in that of the group."""
    restored: list[Any] = [None] * len(order)
    for i, value in zip(order, values, strict=True):
        restored[i] = value
    return tuple(restored)
