"""Combine several verdicts on one question into one set of steps (self-consistency; CAPO 2508.02298 votes with k = 4)."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


class Vote(enum.Enum):
    """Voting rule: a step is chosen by MAJORITY (more than half of the verdicts), INTERSECTION (all) or UNION (any)."""

    MAJORITY = "majority"
    INTERSECTION = "intersection"
    UNION = "union"


@dataclass(frozen=True, slots=True)
class Decision:
    """Result of a vote: the chosen ``members``, and the ``undecided`` steps with exactly half of the votes (if even)."""

    members: frozenset[int]
    undecided: frozenset[int] = frozenset()


def decide(votes: Sequence[frozenset[int]], rule: Vote) -> Decision:
    """Count the votes by a rule.

    Raises:
        ValueError: ``votes`` is empty.
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
