"""Types and limits shared by the stages of a comparison."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

from lit_tpgrpo.verify.shapes import Shape

MAX_UNMATCHED_PARTS = 50
"""Maximum number of parts of an unordered list that are compared pairwise, which takes quadratic time."""

MAX_NESTING = 50
"""Maximum depth of nested brackets in a compared text, because reading them recurses as deep."""


class Match(enum.Enum):
    """Result of a comparison."""

    SAME = "same"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"
    """One side cannot be read, so the comparison is undecided."""


Equal = Callable[[str, str], Match]
"""Compares two expressions by mathematics, called as ``equal(gold, answer)``."""
CompareShapes = Callable[[Shape, Shape, Equal], Match]


def every(matches: Iterable[Match]) -> Match:
    """Combine results: DIFFERENT as soon as one is (lazily), else UNREADABLE if one is, else SAME."""
    combined = Match.SAME
    for match in matches:
        if match is Match.DIFFERENT:
            return match
        combined = match if match is Match.UNREADABLE else combined
    return combined
