"""Several verdicts on one question to one set of steps (self-consistency; CAPO 2508.02298 votes with k = 4)."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


class Vote(enum.Enum):
    """MAJORITY: in more than half of the verdicts. INTERSECTION: in all. UNION: in any."""

    MAJORITY = "majority"
    INTERSECTION = "intersection"
    UNION = "union"


@dataclass(frozen=True, slots=True)
class Decision:
    """``members`` are voted in; on ``undecided`` exactly half of the verdicts agree (an even number of votes only)."""

    members: frozenset[int]
    undecided: frozenset[int] = frozenset()


def decide(votes: Sequence[frozenset[int]], rule: Vote) -> Decision:
    """Count the votes.

    Raises:
        ValueError: there are none.
    """
    if not votes:
        raise ValueError("there are no votes to count")
    counts = Counter(member for vote in votes for member in vote)
    if rule is Vote.UNION:
        return Decision(frozenset(counts))
    if rule is Vote.INTERSECTION:
        return Decision(frozenset(m for m, n in counts.items() if n == len(votes)))
    return Decision(
        frozenset(m for m, n in counts.items() if 2 * n > len(votes)),
        frozenset(m for m, n in counts.items() if 2 * n == len(votes)),
    )
