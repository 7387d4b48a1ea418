"""The judge interface: takes solutions that were segmented by rules, returns one verdict for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from lit_tpgrpo.engines.base import Engine, Policy
from lit_tpgrpo.records import Outcome, Problem, Solution, Step, StepLabel, Verdict
from lit_tpgrpo.text.formats.base import Division
from lit_tpgrpo.text.formats.think_tags import ThinkTags


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """A solution to label. ``steps`` is the rule segmentation: think steps, then the answer block as the last step.

    A solution without an answer block has no answer step; ``division`` says where the block's text lies, without tags (None:
    by ``ThinkTags()``). One whose outcome is UNDECIDED is never judged,
    because the outcome decides which labels apply. ``draw`` says which of several independent verdicts on the solution is
    wanted, from 0: a judge that samples derives its seeds from it (``RepeatableJudge``), others need not read it.
    """

    problem: Problem
    solution: Solution
    outcome: Outcome
    steps: tuple[Step, ...]
    division: Division | None = None
    draw: int = 0

    def divided(self) -> Division:
        """Return where the solution's thinking and answer block lie."""
        return ThinkTags().divide(self.solution.text) if self.division is None else self.division

    def answer_block(self) -> str | None:
        """Return the text of the answer block, without tags; None if the solution has none."""
        return self.divided().answer_text(self.solution.text)


@runtime_checkable
class Judge(Protocol):
    """Interface of a judge: labels the steps of solutions.

    ``judge`` yields ``(index into cases, verdict)`` as each verdict completes, in any order, each index exactly once;
    a case that cannot be decided is returned with every step ABSTAINED, never raised as an exception. ``metrics`` returns
    the counters since the last call and resets them. ``close`` frees processes and connections and may be called twice.
    A class that inherits from this one gets ``name``, ``metrics`` and ``close`` as they are here.
    """

    @property
    def name(self) -> str:
        """The judge's name in stored verdicts: that of its class."""
        return type(self).__name__

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]: ...

    def metrics(self) -> dict[str, float]:
        """Return counters since the last call, logged under ``judge/`` as sums over all ranks, and reset them."""
        return {}

    def close(self) -> None:
        """Free processes and connections; may be called twice."""


class Tally(Protocol):
    """Counters of one process, to be summed over all processes. Must be picklable."""

    def __add__(self, other: Any) -> Tally: ...

    def metrics(self) -> dict[str, float]: ...


OTHER_LABEL = {
    StepLabel.CORRECT: StepLabel.INCORRECT,
    StepLabel.INCORRECT: StepLabel.CORRECT,
    StepLabel.MATCHED: StepLabel.UNMATCHED,
    StepLabel.UNMATCHED: StepLabel.MATCHED,
}
"""The other label that a step of the same solution may have; ABSTAINED has none."""


class Counts(dict[str, float]):
    """Counts by name, summed name by name."""

    def __add__(self, other: Counts) -> Counts:
        return Counts({name: self.get(name, 0.0) + other.get(name, 0.0) for name in (*self, *(other.keys() - self))})

    def metrics(self) -> dict[str, float]:
        """Return the counts unchanged."""
        return dict(self)

    def sums(self) -> Counts:
        """Return itself, see ``Summable``."""
        return self


@runtime_checkable
class Summable(Protocol):
    """A tally of which some metrics may be added up over any number of calls and runs."""

    def sums(self) -> Counts:
        """Return these by the names that ``metrics`` has for them; shares, means and percentiles are none of them."""
        ...


def sums_of(tally: Tally) -> Counts:
    """Return what may be added up of a tally; nothing of one that does not say."""
    return tally.sums() if isinstance(tally, Summable) else Counts()


@runtime_checkable
class TallyingJudge(Protocol):
    """A judge whose metrics are not all counts (shares, latencies): they are computed after summing over processes."""

    def tally(self) -> Tally:
        """Return the counters since the last call and reset them; called instead of ``metrics``."""
        ...


def tally_of(judge: Judge) -> Tally:
    """Return a judge's counters since the last call and reset them; metrics of a judge without ``tally`` count as counts."""
    return judge.tally() if isinstance(judge, TallyingJudge) else Counts(judge.metrics())


@runtime_checkable
class StreamingJudge(Protocol):
    """A judge that begins with the first cases while others are still being sampled (``data.schedule: streamed``)."""

    def judge_arriving(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Judge cases whose ``next`` may have to wait. All else is as in ``judge``: one call for all cases of a round."""
        ...


def judge_arriving(judge: Judge, cases: Iterable[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
    """Judge cases as they come, or all at once when the last one is there if the judge is no ``StreamingJudge``."""
    if _takes_arriving(judge):
        return cast(StreamingJudge, judge).judge_arriving(cases)
    return judge.judge(list(cases))


def _takes_arriving(judge: Judge) -> bool:
    """Return whether the judge's class has ``judge_arriving``, and nothing nearer to the judge overrides ``judge`` alone.

    What overrides ``judge`` is asked by it: an inherited ``judge_arriving`` does not know of it. Not ``isinstance``, which a
    wrapper that passes on unknown attributes fulfils.
    """
    for namespace in (getattr(judge, "__dict__", {}), *map(vars, type(judge).__mro__)):
        if "judge_arriving" in namespace:
            return True
        if "judge" in namespace:
            return False
    return False


@runtime_checkable
class RefreshableJudge(Protocol):
    """A judge whose weights can be updated (a policy that judges itself)."""

    @property
    def needs_policy(self) -> bool:
        """Whether ``refresh`` must be called before ``judge``."""
        ...

    def refresh(self, policy: Policy) -> bool:
        """Load the policy's weights and return whether the judge changed. A frozen judge does nothing."""
        ...


@runtime_checkable
class EngineSharing(Protocol):
    """A judge that can sample its replies from the engine that samples the policy's solutions."""

    def share_engine(self, engine: Engine) -> None:
        """Offer the rollout engine, once, before ``judge``. A self-judging policy without an engine in its config uses it."""
        ...


@runtime_checkable
class StoringJudge(Protocol):
    """A judge that caches verdicts or replies."""

    def bypass_cache(self) -> AbstractContextManager[None]:
        """Return a context in which nothing is read from the cache."""
        ...


@runtime_checkable
class RepeatableJudge(Protocol):
    """A judge that can give several verdicts on one solution: those on cases that differ in ``draw`` differ by chance."""

    def check_repeatable(self) -> None:
        """Check that the settings let draws differ.

        Raises:
            ConfigError: every draw would have the same verdict.
        """
        ...


@runtime_checkable
class WritingJudge(Protocol):
    """A judge that writes to disk."""

    def check_writable(self) -> None:
        """Check that its files can be written, before anything is sampled or sent to the LLM.

        Raises:
            StorageError: they cannot be written.
        """
        ...


def abstain(case: JudgeCase, note: str) -> Verdict:
    """Return the verdict of a case that was not judged: all steps ABSTAINED, so the solution keeps its outcome reward only."""
    return Verdict(case.steps, (StepLabel.ABSTAINED,) * len(case.steps), note)
