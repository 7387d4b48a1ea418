"""The judge interface: solutions with rule-made steps in, one verdict for each out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lit_tpgrpo.engines.base import Engine, Policy
from lit_tpgrpo.records import Outcome, Problem, Solution, Step, StepLabel, Verdict


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """One solution to label. ``steps`` is the rule segmentation: think steps, then the answer block as the last step.

    A solution that never closed its think block has no answer step. One whose outcome is UNDECIDED is never judged: which
    labels apply depends on it.
    """

    problem: Problem
    solution: Solution
    outcome: Outcome
    steps: tuple[Step, ...]


@runtime_checkable
class Judge(Protocol):
    """Labels the steps of solutions.

    ``judge`` yields ``(index into cases, verdict)`` as each verdict completes, in any order, each index exactly once;
    a case that cannot be decided comes back with every step ABSTAINED, never as an exception. ``metrics`` returns
    counters since the last call and resets them. ``close`` frees processes and connections and may be called twice.
    """

    name: str

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]: ...

    def metrics(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class Tally(Protocol):
    """What was counted, to be added to what other processes counted. Must pickle."""

    def __add__(self, other: Any) -> Tally: ...

    def metrics(self) -> dict[str, float]: ...


class Counts(dict[str, float]):
    """Plain counts: they add up name by name."""

    def __add__(self, other: Counts) -> Counts:
        return Counts({name: self.get(name, 0.0) + other.get(name, 0.0) for name in (*self, *(other.keys() - self))})

    def metrics(self) -> dict[str, float]:
        """The counts themselves."""
        return dict(self)


@runtime_checkable
class TallyingJudge(Protocol):
    """A judge whose metrics hold more than counts (shares, latencies): sums over processes are taken before these."""

    def tally(self) -> Tally:
        """What was counted since the last call, in place of ``metrics``."""
        ...


def tally_of(judge: Judge) -> Tally:
    """What a judge counted since it was last asked; plain metrics are taken for counts."""
    return judge.tally() if isinstance(judge, TallyingJudge) else Counts(judge.metrics())


@runtime_checkable
class RefreshableJudge(Protocol):
    """A judge that can take up newer weights (a policy that judges itself)."""

    @property
    def needs_policy(self) -> bool:
        """Whether it has to be refreshed before it can judge at all."""
        ...

    def refresh(self, policy: Policy) -> bool:
        """Take up the policy's weights; returns whether the judge changed. A frozen judge stays as it is."""
        ...


@runtime_checkable
class EngineSharing(Protocol):
    """A judge that may answer with the engine that samples the policy's solutions."""

    def share_engine(self, engine: Engine) -> None:
        """Offered once, before anything is judged; the judge takes it where the policy judges itself and its user chose no
        other engine."""
        ...


@runtime_checkable
class StoringJudge(Protocol):
    """A judge that may answer from what it stored."""

    def bypass_cache(self) -> AbstractContextManager[None]:
        """Inside of it nothing is answered from the store."""
        ...


@runtime_checkable
class WritingJudge(Protocol):
    """A judge that writes what it learns."""

    def check_writable(self) -> None:
        """Find out whether it can, before anything is sampled or asked.

        Raises:
            StorageError: it cannot.
        """
        ...


def abstain(case: JudgeCase, note: str) -> Verdict:
    """The verdict that leaves a solution with its outcome reward alone."""
    return Verdict(case.steps, (StepLabel.ABSTAINED,) * len(case.steps), note)
