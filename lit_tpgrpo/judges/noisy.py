"""NoisyJudge: another judge's labels, some of them flipped, to measure what label errors cost."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.base import Engine, Policy
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.judges.base import (
    Counts,
    EngineSharing,
    Judge,
    JudgeCase,
    RefreshableJudge,
    StoringJudge,
    Tally,
    WritingJudge,
    tally_of,
)
from lit_tpgrpo.records import StepLabel, Verdict
from lit_tpgrpo.seeds import derived_seed

_FLIPPED = {
    StepLabel.CORRECT: StepLabel.INCORRECT,
    StepLabel.INCORRECT: StepLabel.CORRECT,
    StepLabel.MATCHED: StepLabel.UNMATCHED,
    StepLabel.UNMATCHED: StepLabel.MATCHED,
}
"""The other label of a family; ABSTAINED has none."""

COUNTERS = ("labels_flippable", "labels_flipped")
"""Labels of think steps that the judge gave, and those of them that were flipped."""


@dataclass(frozen=True, slots=True)
class NoisyTally:
    """The counters of a noisy judge: those of the judge whose labels it takes, and its own."""

    inner: Tally
    noise: Counts

    def __add__(self, other: NoisyTally) -> NoisyTally:
        return NoisyTally(self.inner + other.inner, self.noise + other.noise)

    def metrics(self) -> dict[str, float]:
        """Return both as one."""
        return self.inner.metrics() | self.noise.metrics()


@checked_arguments()
class NoisyJudge(Judge):
    """Judge that takes another judge's labels and flips each think step's with a set probability.

    CORRECT and INCORRECT change places, and MATCHED and UNMATCHED. The answer block keeps its label, which the outcome decides,
    and an abstention stays one. Whether a label is flipped depends on the seed, the problem, the sample, the text of the
    solution and the step's index alone: a resumed run and one on any number of processes have the same labels, a solution that
    is judged twice has the same errors, and a larger ``error`` flips all that a smaller one does and more. The errors of two
    steps are independent, which those of a language model are not.

    Args:
        judge: whose labels are taken. Its cache, engine, weights and counters work as without this class.
        error: probability that the label of a think step is flipped, in [0, 1]; 0 keeps every label.
        seed: another seed flips other labels.

    Raises:
        ConfigError: error is not in [0, 1].
    """

    def __init__(self, judge: Judge, error: float = 0.1, seed: int = 0) -> None:
        if not 0 <= error <= 1:
            raise ConfigError(f"error must be in [0, 1], the probability of a wrong label, got {error}")
        self.inner = judge
        self.error = error
        self.seed = seed
        self._noise = _no_counts()

    @property
    def name(self) -> str:
        return f"noisy_{self.inner.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that verdicts depend on: those of the inner judge among them."""
        inner = {"name": self.inner.name} | settings_of(self.inner)
        return {"judge": inner, "error": self.error, "seed": self.seed}

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Judge the cases with the inner judge and flip labels as its verdicts come."""
        for index, verdict in self.inner.judge(cases):
            yield index, self._with_errors(cases[index], verdict)

    def _with_errors(self, case: JudgeCase, verdict: Verdict) -> Verdict:
        solution = case.solution
        draws = random.Random(
            derived_seed(self.seed, "noisy judge", solution.problem_uid, solution.sample, solution.text)
        )
        labels = list(verdict.labels)
        for i, step in enumerate(verdict.steps):
            # One draw per step, used or not: the draws of later steps do not depend on earlier labels.
            is_flipped = draws.random() < self.error
            if is_flipped and not step.is_answer and labels[i] in _FLIPPED:
                labels[i] = _FLIPPED[labels[i]]
        flipped = sum(a is not b for a, b in zip(labels, verdict.labels, strict=True))
        flippable = sum(not s.is_answer and label in _FLIPPED for s, label in zip(verdict.steps, labels, strict=True))
        self._noise += Counts(dict(zip(COUNTERS, (flippable, flipped), strict=True)))
        return replace(verdict, labels=tuple(labels))

    def metrics(self) -> dict[str, float]:
        return self.tally().metrics()

    def tally(self) -> Tally:
        """Return the counters of both judges since the last call and reset them, see ``TallyingJudge``."""
        noise, self._noise = self._noise, _no_counts()
        return NoisyTally(tally_of(self.inner), noise)

    def close(self) -> None:
        self.inner.close()

    @property
    def needs_policy(self) -> bool:
        """Whether the inner judge waits for the policy's weights, see ``RefreshableJudge``."""
        return isinstance(self.inner, RefreshableJudge) and self.inner.needs_policy

    def refresh(self, policy: Policy) -> bool:
        """Refresh the inner judge if it can be; return whether it changed."""
        return isinstance(self.inner, RefreshableJudge) and self.inner.refresh(policy)

    def share_engine(self, engine: Engine) -> None:
        """Offer the rollout engine to the inner judge, see ``EngineSharing``."""
        if isinstance(self.inner, EngineSharing):
            self.inner.share_engine(engine)

    def bypass_cache(self) -> AbstractContextManager[None]:
        """Return a context in which the inner judge reads nothing from its cache, if it has one."""
        return self.inner.bypass_cache() if isinstance(self.inner, StoringJudge) else nullcontext()

    def check_writable(self) -> None:
        """Check that the inner judge can write, if it does, see ``WritingJudge``."""
        if isinstance(self.inner, WritingJudge):
            self.inner.check_writable()


def _no_counts() -> Counts:
    return Counts(dict.fromkeys(COUNTERS, 0.0))
