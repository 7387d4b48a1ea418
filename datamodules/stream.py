"""The order in which problems are sampled: endless shuffled passes, or draws weighted by capability."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from lit_tpgrpo.records import Problem
from lit_tpgrpo.seeds import derived_seed


class ProblemStream:
    """Problems by position in an endless stream.

    Pass p is a permutation that depends on (seed, p) alone, so a restarted run reaches any position without replaying the
    stream.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.problems = tuple(problems)
        self.seed = seed
        self._pass: tuple[int, list[int]] = (-1, [])

    def take(self, start: int, count: int) -> list[Problem]:
        """Return the problems at positions ``start`` to ``start + count - 1``."""
        return [self._at(position) for position in range(start, start + count)]

    def draw(self, start: int, count: int, weights: Sequence[float]) -> list[Problem]:
        """Draw ``count`` problems by weight, without replacement if enough have a positive weight.

        Args:
            start: position in the stream, which seeds the draw.
            count: number of problems.
            weights: one for each problem, not negative; they need not sum to 1.
        """
        tensor = torch.as_tensor(weights, dtype=torch.float64)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "draw", start))
        repeat = count > int((tensor > 0).sum())
        picks = torch.multinomial(tensor, count, replacement=repeat, generator=generator)
        return [self.problems[i] for i in picks.tolist()]

    def choose(
        self, start: int, count: int, weights: Sequence[float] | None, taken: Sequence[Problem] = ()
    ) -> list[Problem]:
        """Return the next problems: in the order of the passes, or drawn if there are weights.

        Args:
            start: position in the stream.
            count: number of problems.
            weights: one for each problem, or None.
            taken: problems that are not drawn again, as long as others have a positive weight.
        """
        if weights is None:
            return self.take(start, count)
        uids = {problem.uid for problem in taken}
        rest = [0.0 if problem.uid in uids else w for problem, w in zip(self.problems, weights, strict=True)]
        return self.draw(start, count, rest if any(w > 0 for w in rest) else weights)

    def _at(self, position: int) -> Problem:
        number, offset = divmod(position, len(self.problems))
        if self._pass[0] != number:
            order = list(range(len(self.problems)))
            random.Random(derived_seed(self.seed, "pass", number)).shuffle(order)
            self._pass = (number, order)
        return self.problems[self._pass[1][offset]]
