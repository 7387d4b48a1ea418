"""Evidence about a judged solution beyond its labels: what providers (``lit_tpgrpo.judges.evidence``) give to credit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lit_tpgrpo.token_arrays import EqualByContent, TokenFloats, token_floats


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


@dataclass(frozen=True, slots=True)
class Preferences:
    """How much the solution is preferred to those of its group: a row of the group's matrix of preferences.

    ``values[k]`` is positive if it is better than the solution with sample ``samples[k]``, 0 for a tie and for itself.
    """

    samples: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.samples) != len(self.values) or not all(map(math.isfinite, self.values)):
            raise ValueError(f"expected a finite preference for each of the samples {self.samples}, got {self.values}")

    def over(self, sample: int) -> float:
        """Return the preference over the solution with this sample.

        Raises:
            ValueError: the solution was not compared with it.
        """
        if sample not in self.samples:
            raise ValueError(f"there is no preference over sample {sample}, only over {self.samples}")
        return self.values[self.samples.index(sample)]


@dataclass(frozen=True, slots=True)
class SolutionGrade:
    """A grade of the whole solution, on a declared scale."""

    grade: float
    low: float
    high: float
    """Least and greatest grade that the provider may give."""

    def __post_init__(self) -> None:
        if not self.low <= self.grade <= self.high:
            raise ValueError(f"a grade must lie in [{self.low}, {self.high}], the declared scale, got {self.grade}")


@dataclass(frozen=True, slots=True)
class TokenRewards:
    """A reward for each token of the solution's completion, on no particular scale."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.values)):
            raise ValueError("expected finite token rewards, got NaN or infinity")


@dataclass(frozen=True, slots=True)
class AnswerProbes:
    """What the policy knows of the answer after each step of the verdict, when it is made to answer at once.

    ``values[j]`` is (accuracy, confidence), both in [0, 1]; None for a step after which it was not asked.
    """

    values: tuple[tuple[float, float] | None, ...]

    def __post_init__(self) -> None:
        for pair in self.values:
            if pair is not None and not all(0 <= value <= 1 for value in pair):
                raise ValueError(f"accuracy and confidence must lie in [0, 1], got {pair}")


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceLogprobs(EqualByContent):
    """Log-probs of the solution's tokens under the policy that sampled it, and under the frozen initial policy.

    Both are the trainer's, at the sampling temperature; it computes them for a credit that needs them, without a provider.
    """

    policy: TokenFloats
    reference: TokenFloats

    def __post_init__(self) -> None:
        for name in ("policy", "reference"):
            object.__setattr__(self, name, token_floats(getattr(self, name), f"ReferenceLogprobs.{name}"))
        if len(self.policy) != len(self.reference):
            raise ValueError(f"expected log-probs of the same tokens, got {len(self.policy)} and {len(self.reference)}")
        if not (np.isfinite(self.policy).all() and np.isfinite(self.reference).all()):
            raise ValueError("expected finite log-probs, got NaN or infinity")


Evidence = StepScores | Continuations | Preferences | SolutionGrade | TokenRewards | AnswerProbes | ReferenceLogprobs
