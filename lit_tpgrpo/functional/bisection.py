"""Binary search for the first step of a solution from which nothing correct follows (arXiv 2410.17621, second-hand)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepSearch:
    """Where the first infeasible step of a solution can still be: one of ``low`` to ``high + 1``, steps counted from 1.

    A step is feasible if a continuation from its end may be correct; if one is not, none after it is taken to be. A search
    begins as ``StepSearch(1, n)`` and takes about log2(n) probes.

    >>> search, probes = StepSearch(1, 5), []
    >>> while search.probe is not None:
    ...     probes.append(search.probe)
    ...     search = search.narrowed(feasible=search.probe <= 2)
    >>> probes, search.low
    ([3, 1, 2], 3)
    """

    low: int
    high: int

    @property
    def probe(self) -> int | None:
        """The step whose end is to be continued next, floor((low + high) / 2); None if ``low`` is the first infeasible one."""
        return None if self.low > self.high else (self.low + self.high) // 2

    def narrowed(self, feasible: bool) -> StepSearch:
        """Return what is left after the probe: the steps behind it if it is feasible, else those before it.

        Raises:
            ValueError: the search has ended.
        """
        if self.probe is None:
            raise ValueError(f"the search has ended at step {self.low}: there is no probe to learn from")
        return StepSearch(self.probe + 1, self.high) if feasible else StepSearch(self.low, self.probe - 1)


def step_signs(count: int, first_infeasible: int) -> list[float]:
    """Return +1 for each of ``count`` steps before the first infeasible one, counted from 1, and -1 from it on.

    >>> step_signs(5, 3)
    [1.0, 1.0, -1.0, -1.0, -1.0]
    """
    return [1.0 if step < first_infeasible else -1.0 for step in range(1, count + 1)]
