"""The policy's capability per problem, which scales the process reward of correct solutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Capability(Protocol):
    """The policy's capability per problem: scales r_c and may weight the sampling of problems."""

    def scale(self, uid: str, accuracy: float) -> float:
        """Return the factor of r_c, given this round's acc_G. Called once per group, in the round's order."""
        ...

    def weights(self, uids: Sequence[str]) -> Sequence[float] | None:
        """Return the problems' sampling weights for the next round, None for a plain shuffle."""
        ...


class GroupAccuracy:
    """The paper's rule: capability is acc_G, problems are sampled in shuffled passes."""

    def scale(self, uid: str, accuracy: float) -> float:
        """Return acc_G."""
        return accuracy

    def weights(self, uids: Sequence[str]) -> None:
        """Weight no problem: passes are plain shuffles."""
