"""What of a round's evidence is still to be computed by the policy that sampled it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Sequence
from typing import Protocol, TypeVar

log = logging.getLogger(__name__)


class Keyed(Protocol):
    """What the store finds by a key; equal content has equal keys."""

    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=Keyed)


def still_missing(
    rows: Sequence[Sequence[K | None]], known: Container[str], current: bool, counts: Counter[str], kind: str, lost: str
) -> list[K]:
    """Return what has no known value, each key once and in order; nothing if the policy has moved on, with a warning.

    Args:
        rows: of each case; None where there is nothing to compute.
        known: keys of the values that there are.
        current: whether the policy is still the one that sampled the round.
        counts: ``KIND_reused`` and ``KIND_lost`` are added to.
        kind: what is computed, in the plural.
        lost: the warning, with %d for the number.
    """
    items = [item for row in rows for item in row if item is not None]
    missing = list({item.key: item for item in items if item.key not in known}.values())
    counts[f"{kind}_reused"] += len(items) - len(missing)
    if missing and not current:
        log.warning(lost, len(missing))
        counts[f"{kind}_lost"] += len(missing)
        return []
    return missing
