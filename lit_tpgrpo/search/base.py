"""Interfaces of search at test time: partial solutions, the plan of a search, step scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, Protocol, runtime_checkable

from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.judges.base import Tally
from lit_tpgrpo.records import StopReason


@dataclass(frozen=True, slots=True)
class Partial:
    """A solution as far as it is sampled: tokens with log-probs, the texts of its steps, and a score of each.

    ``stop`` is None as long as more can be sampled. ``steps`` tile the text.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    steps: tuple[str, ...] = ()
    stop: StopReason | None = None
    scores: tuple[float, ...] = field(default=(), compare=False)

    @property
    def text(self) -> str:
        return "".join(self.steps)

    @property
    def is_whole(self) -> bool:
        """Whether it ended by itself; one that the token limit cut has no answer."""
        return self.stop is not None and self.stop is not StopReason.LENGTH


ROOT = Partial()
"""Nothing but the prompt."""


@dataclass(frozen=True, slots=True)
class Expand:
    """A search's request: ``n`` continuations of each of ``parents``, by one step, or to the end if ``whole``."""

    parents: tuple[Partial, ...]
    n: int
    whole: bool = False


Plan = Generator[Expand, list[list[Partial]], Partial]
"""A search of one problem: yields requests, receives the scored continuations of each parent, returns the solution it chose."""


class Search(Protocol):
    """Interface of a search. An instance has settings and no state."""

    def plan(self) -> Plan: ...


@runtime_checkable
class StepScorer(Protocol):
    """Interface of step scores in [0, 1]: how good each step of a solution, whole or not, is. It never sees gold answers."""

    def scores(self, cases: Sequence[tuple[str, tuple[str, ...]]]) -> Sequence[Sequence[float]]:
        """Return a score for each step of each case.

        Args:
            cases: problem statements (as the prompt shows them, chat template included) and texts of the steps so far.
        """
        ...


@runtime_checkable
class PreparedScorer(Protocol):
    """A scorer with parts that may depend on the policy, that count, and that hold processes."""

    def prepare(self, policy: Policy) -> None:
        """Take the policy's weights, if they are needed; called before the engine that searches loads them. Collective."""
        ...

    def tally(self) -> Tally:
        """Return the counters since the last call and reset them."""
        ...

    def close(self) -> None:
        """Free processes and connections; may be called twice."""
        ...


class NoScores:
    """Scores every step 1: best-of-n takes the first solution, and weighted voting is majority voting."""

    def scores(self, cases: Sequence[tuple[str, tuple[str, ...]]]) -> Sequence[Sequence[float]]:
        return [(1.0,) * len(steps) for _, steps in cases]


Aggregate = Literal["min", "mean", "product", "last"]
AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": fmean,
    "product": math.prod,
    "last": lambda scores: scores[-1],
}
"""The score of a solution from those of its steps; ``min`` is Math-Shepherd's."""


def solution_score(partial: Partial, aggregate: Aggregate) -> float:
    """Return the score of a solution; 1 for one without a step."""
    return AGGREGATES[aggregate](partial.scores) if partial.scores else 1.0
