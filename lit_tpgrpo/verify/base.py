"""The verifier interface: from a gold and an extracted answer to an outcome."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from lit_tpgrpo.records import Outcome


@runtime_checkable
class Verifier(Protocol):
    """Interface of a verifier, which compares answers with golds.

    ``verify_all`` returns one outcome per pair ``(gold, answer)``, in their order; an answer of None (the solution gives none)
    is INCORRECT. ``metrics`` returns the counters since the last call and resets them. ``close`` frees processes and may be
    called twice.
    """

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]: ...

    def metrics(self) -> dict[str, float]: ...

    def close(self) -> None: ...
