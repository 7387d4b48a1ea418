"""Evidence about a judged solution beyond its labels: what providers (``lit_tpgrpo.judges.evidence``) give to credit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepScores:
    """A score for each step of the solution's verdict, on a declared scale; None for a step without one."""

    scores: tuple[float | None, ...]
    low: float
    high: float
    """Least and greatest score that the provider may give: -1 and 1, or 0 and 1."""

    def __post_init__(self) -> None:
        for score in self.scores:
            if score is not None and not self.low <= score <= self.high:
                raise ValueError(f"a step score must lie in [{self.low}, {self.high}], the declared scale, got {score}")


@dataclass(frozen=True, slots=True)
class Continuations:
    """Outcomes of solutions that were continued from the start of each step: 1 correct, 0 not correct.

    ``outcomes[j]`` are those from the start of step j of the verdict, so that ``outcomes[0]`` continue the bare prompt. None
    where none were sampled; continuations that the verifier left UNDECIDED are left out.
    """

    outcomes: tuple[tuple[float, ...] | None, ...]


Evidence = StepScores | Continuations
