"""Groups of a round that are verified and judged while another thread waits for some of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping

from lit_tpgrpo.records import Outcome, Verdict
from lit_tpgrpo.rewards.base import VerifiedSolution
from lit_tpgrpo.rollout.verifying import VerifiedGroups

_TICK_S = 0.2


class JudgedSoFar:
    """What is verified and judged of a round. Any number of threads may add to it and wait for it."""

    def __init__(self) -> None:
        self._verified: dict[int, tuple[VerifiedSolution, ...]] = {}
        self._verdicts: dict[tuple[int, int], Verdict] = {}
        self._changed = threading.Condition()

    def add(
        self,
        verified: Mapping[int, tuple[VerifiedSolution, ...]],
        verdicts: Mapping[tuple[int, int], Verdict],
    ) -> None:
        """Add verified groups by index, and verdicts by (group index, sample)."""
        with self._changed:
            self._verified |= verified
            self._verdicts |= verdicts
            self._changed.notify_all()

    def of(self, groups: Collection[int]) -> VerifiedGroups:
        """Return these groups with the verdicts that are there, in the order of ``groups``; without times and tokens."""
        with self._changed:
            wanted = set(groups)
            verdicts = {key: verdict for key, verdict in self._verdicts.items() if key[0] in wanted}
            return VerifiedGroups({g: self._verified[g] for g in groups}, verdicts, 0, 0.0, 0.0)

    def wait_for(self, groups: Collection[int], check: Callable[[], None]) -> VerifiedGroups:
        """Return these groups as soon as all their decided solutions have verdicts.

        Args:
            groups: indices; in this order they are returned.
            check: called first and then now and then; its exception ends the waiting.
        """
        with self._changed:
            while not all(map(self._is_judged, groups)):
                check()
                self._changed.wait(_TICK_S)
        return self.of(groups)

    def _is_judged(self, group: int) -> bool:
        return group in self._verified and all(
            s.outcome is Outcome.UNDECIDED or (group, s.solution.sample) in self._verdicts
            for s in self._verified[group]
        )
