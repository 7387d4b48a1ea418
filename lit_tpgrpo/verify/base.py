"""The verifier interface: from a solution's text to its answer, from gold and answer to an outcome."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from lit_tpgrpo.records import Outcome
from lit_tpgrpo.text.answers import extract_boxed


@runtime_checkable
class Verifier(Protocol):
    """Extracts answers and compares them with golds.

    A class that inherits from this one gets ``extract``, ``metrics`` and ``close`` as they are here.
    """

    def extract(self, text: str) -> str | None:
        """Return the answer that a solution's text gives, None if it gives none: the box after the think block."""
        return extract_boxed(text)

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]:
        """Return one outcome for each ``(gold, answer)``, in order; an answer of None is INCORRECT."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return counters since the last call, logged under ``verify/`` as sums over all ranks, and reset them."""
        return {}

    def close(self) -> None:
        """Free processes; may be called twice, and the verifier may be used again."""
