"""What the stages of a comparison say to one another."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

from lit_tpgrpo.verify.structure import Shape

MAX_OPEN_PARTS = 50
"""Parts of a list without order that are compared each with each, which takes quadratic time."""

MAX_NESTING = 50
"""Brackets in brackets of an answer that is compared: reading them goes as deep into the stack."""


class Match(enum.Enum):
    """What a comparison says."""

    SAME = "same"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"
    """One side cannot be read, so that nothing is known."""


Equal = Callable[[str, str], Match]
"""math-verify's word on two expressions, the gold's first."""
CompareShapes = Callable[[Shape, Shape, Equal], Match]


def every(matches: Iterable[Match]) -> Match:
    """SAME if all are, DIFFERENT as soon as one is."""
    seen = Match.SAME
    for match in matches:
        if match is Match.DIFFERENT:
            return match
        seen = match if match is Match.UNREADABLE else seen
    return seen
