"""The reward interface: one term of a solution's reward, from the verified solution and those beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lit_tpgrpo.records import Outcome, Problem, Solution, Step
from lit_tpgrpo.text.formats.base import Division


@dataclass(frozen=True, slots=True)
class VerifiedSolution:
    """A solution whose outcome is known, before it is judged.

    ``answer`` is the extracted answer, None if there is none. ``steps`` and ``division`` are as in ``JudgeCase``: the rule
    segmentation, and where the run's solution format sees thinking and answer block.
    """

    problem: Problem
    solution: Solution
    outcome: Outcome
    answer: str | None
    steps: tuple[Step, ...]
    division: Division

    @property
    def answer_block(self) -> str | None:
        """Text of the answer block, None if there is none (for example, the think block was never closed)."""
        return self.division.answer_text(self.solution.text)


@dataclass(frozen=True, slots=True)
class RewardCase(VerifiedSolution):
    """A solution to reward. ``group`` has the verified solutions of the problem, this one included, in the order of their
    samples; UNDECIDED ones are among them, and are never a case of their own."""

    group: tuple[VerifiedSolution, ...]


@runtime_checkable
class RewardTerm(Protocol):
    """Interface of a reward term: called with a ``RewardCase``, it returns a finite number, or None to skip the solution.

    It may return an awaitable instead (``async def``): those of a round are awaited concurrently, see ``WeightedTerm``. An
    object keeps its settings as public attributes, by which a resumed run knows whether stored values are still its own.
    """

    def __call__(self, case: RewardCase) -> Any: ...
