"""A problem source: ``--data.train examples.parts.source.RepeatedSums --data.train.times 3``."""

from collections.abc import Sequence

from lit_tpgrpo.records import Problem


class RepeatedSums:
    """Sums of a digit and several times another one, modulo 10, in the words that the quickstart's policy knows.

    Args:
        times: how often the second digit is added.
    """

    name = "sums"

    def __init__(self, times: int = 4) -> None:
        self.times = times

    def load(self) -> Sequence[Problem]:
        """Return the same problems in the same order each time; a uid begins with the source's name and is used once."""
        return [self._problem(a, b) for a in range(10) for b in range(10)]

    def _problem(self, a: int, b: int) -> Problem:
        prompt = f"Working modulo 10, start with {a}{f', add {b}' * self.times}. What is the result?"
        return Problem(f"sums/{a}+{self.times}*{b}", prompt, str((a + self.times * b) % 10), self.name)
