"""The verifier interface: from a solution's answer block to its answer, from gold and answer to an outcome."""

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
        """Return the answer that an answer block gives, None if it gives none; here the content of its last box.

        ``text`` is the answer block only, without tags: the run's ``SolutionFormat`` has divided the solution. A solution
        without an answer block has no answer, and this is not called.
        """
        return extract_boxed(text)

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]:
        """Return one outcome for each ``(gold, answer)``, in order; an answer of None is INCORRECT."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return counters since the last call, logged under ``verify/`` as sums over all ranks, and reset them."""
        return {}

    def close(self) -> None:
        """Free processes; may be called twice, and the verifier may be used again."""
