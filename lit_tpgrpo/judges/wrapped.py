"""WrappedJudge: base of judges that change the verdicts of another one; its cache, engine, weights and counters stay in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from lit_tpgrpo.engines.base import Engine, Policy
from lit_tpgrpo.judges.base import (
    Counts,
    EngineSharing,
    Judge,
    JudgeCase,
    RefreshableJudge,
    StoringJudge,
    Tally,
    WritingJudge,
    sums_of,
    tally_of,
)


@dataclass(frozen=True, slots=True)
class WrapperTally:
    """The counters of the judge inside, and those of the wrapper."""

    inner: Tally
    own: Counts

    def __add__(self, other: WrapperTally) -> WrapperTally:
        return WrapperTally(self.inner + other.inner, self.own + other.own)

    def metrics(self) -> dict[str, float]:
        """Return both as one."""
        return self.inner.metrics() | self.own.metrics()

    def sums(self) -> Counts:
        """Return what may be added up of both, see ``Summable``."""
        return sums_of(self.inner) + self.own


def noted(cases: Iterable[JudgeCase], seen: list[JudgeCase]) -> Iterator[JudgeCase]:
    """Pass cases on as they come, and append each to ``seen``, where its verdict finds it."""
    for case in cases:
        seen.append(case)
        yield case


class OwnCounters:
    """The counters that a wrapper or grader has besides those of what is inside it.

    Args:
        names: of all of them; each is reported, 0 too.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._counts = self._zeros()

    def add(self, **counts: float) -> None:
        self._counts += Counts(counts)

    def take(self, inner: Tally) -> WrapperTally:
        """Return them beside the counters inside since the last call, and reset them."""
        own, self._counts = self._counts, self._zeros()
        return WrapperTally(inner, own)

    def _zeros(self) -> Counts:
        return Counts(dict.fromkeys(self._names, 0.0))


class WrappedJudge(Judge):
    """Base of a judge that takes the verdicts of another one; a subclass writes ``judge`` and may call ``own.add``.

    Args:
        judge: the judge inside.
        counters: names of the wrapper's counters, beside those of the judge inside.
    """

    def __init__(self, judge: Judge, counters: tuple[str, ...]) -> None:
        self.inner = judge
        self.own = OwnCounters(counters)

    def metrics(self) -> dict[str, float]:
        return self.tally().metrics()

    def tally(self) -> Tally:
        """Return the counters of both judges since the last call and reset them, see ``TallyingJudge``."""
        return self.own.take(tally_of(self.inner))

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
