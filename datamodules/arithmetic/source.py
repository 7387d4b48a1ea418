"""Problem source of the embedded arithmetic domain."""

from __future__ import annotations

from collections.abc import Sequence

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.arithmetic.problems import DEFAULT_LEVEL, LEVELS, Split, make_problems, most_problems
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Problem


@checked_arguments()
class ArithmeticProblems:
    """Generated arithmetic problems; the two splits are disjoint.

    Args:
        level: difficulty, ``1`` to ``6``: 4, 6, 10 steps modulo 10; 6, 10 modulo 13; 16 distinct ones modulo 10.
        n: number of problems, at most half of those in the split (121,550 held out at level 1).
        seed: seed of the problems.
        split: ``train`` or ``heldout``.

    Raises:
        ConfigError: the level or split is unknown, or n is out of range.
    """

    name = "arithmetic"

    def __init__(self, level: str = DEFAULT_LEVEL, n: int = 4096, seed: int = 0, split: Split = "train") -> None:
        if level not in LEVELS:
            raise ConfigError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        if n < 1:
            raise ConfigError(f"n must be at least 1, got {n}")
        most = most_problems(level, split)
        if n > most:
            raise ConfigError(
                f"n must be at most {most} for level {level!r} and split {split!r}, got {n}; take a higher level"
            )
        self.level, self.n, self.seed = level, n, seed
        self.split: Split = split

    def load(self) -> Sequence[Problem]:
        """Return the problems, the same at each call."""
        return make_problems(self.level, self.n, self.seed, self.split)
