"""A problem source: ``--data.train examples.parts.source.RepeatedSums --data.train.times 3``."""

from collections.abc import Sequence

from lit_tpgrpo import Problem


class RepeatedSums:
    """Sums of a digit and a multiple of another one, modulo 10, in the wording that the quickstart's policy knows.

    Args:
        times: number of times that the second digit is added.
    """

    name = "sums"

    def __init__(self, times: int = 4) -> None:
        self.times = times

    def load(self) -> Sequence[Problem]:
        """Return the problems, always in the same order; a uid is unique and begins with the source's name."""
        return [self._problem(a, b) for a in range(10) for b in range(10)]

    def _problem(self, a: int, b: int) -> Problem:
        prompt = f"Working modulo 10, start with {a}{f', add {b}' * self.times}. What is the result?"
        return Problem(f"sums/{a}+{self.times}*{b}", prompt, str((a + self.times * b) % 10), self.name)
