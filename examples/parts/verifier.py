"""A verifier: ``--data.verifier examples.parts.verifier.LastNumberVerifier``, or a function: ``...verifier.same_text``."""

import re
from collections.abc import Iterable

from lit_tpgrpo import Outcome, Verifier


def same_text(gold: str, answer: str) -> bool:
    """Return whether the box holds the gold, as it is written."""
    return answer.split() == gold.split()


class LastNumberVerifier(Verifier):
    """Verifier that compares the last integer of an answer with the gold.

    Args:
        modulus: numbers that differ by a multiple of it are equal; 0 compares them exactly.
    """

    def __init__(self, modulus: int = 0) -> None:
        self.modulus = modulus
        self._pairs = 0

    def extract(self, text: str) -> str | None:
        """Return the answer in an answer block, which comes without tags: all of it."""
        return text

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]:
        """Return an outcome for each (gold, answer), in order; a missing answer is incorrect."""
        outcomes = [self._outcome(int(gold), re.findall(r"-?\d+", answer or "")) for gold, answer in pairs]
        self._pairs += len(outcomes)
        return outcomes

    def _outcome(self, gold: int, numbers: list[str]) -> Outcome:
        difference = int(numbers[-1]) - gold if numbers else None
        equal = difference is not None and (difference % self.modulus if self.modulus else difference) == 0
        return Outcome.CORRECT if equal else Outcome.INCORRECT

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call, logged as ``verify/pairs``, and reset them."""
        pairs, self._pairs = self._pairs, 0
        return {"pairs": float(pairs)}
