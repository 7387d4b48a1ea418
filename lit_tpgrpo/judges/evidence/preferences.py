"""PairwisePreferences: evidence from comparisons of the solutions of each group, two by two (Think-RM)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

from pydantic import FiniteFloat, TypeAdapter

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.evidence import Evidence, Preferences
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.judges.evidence.graded_groups import GradedGroups
from lit_tpgrpo.judges.grading.comparison import COUNTERS, PairwiseComparison, PreferenceMatrix
from lit_tpgrpo.judges.grading.questions import SolutionGroup

Row = tuple[float, ...]
ROWS: TypeAdapter[list[Row | None]] = TypeAdapter(list[tuple[FiniteFloat, ...] | None])


@checked_arguments()
class PairwisePreferences(GradedGroups[Row]):
    """Compare each solution with the others of its group, by ``PairwiseComparison``; undecided ones are left out.

    A pair that could not be compared is a tie. A solution of which no pair could be compared has no preferences, and neither
    has one without another to compare it with.

    Args:
        comparison: asks the LLM, which must not be the policy itself.

    Raises:
        ConfigError: the LLM is the policy in training.
    """

    def __init__(self, comparison: PairwiseComparison) -> None:
        super().__init__(comparison, ROWS, COUNTERS)
        self.comparison = comparison

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the preferences depend on."""
        return {"comparison": settings_of(self.comparison)}

    @property
    def gives(self) -> type[Evidence]:
        return Preferences

    def ask(self, groups: Sequence[SolutionGroup]) -> Generator[tuple[int, list[Row | None]], None, None]:
        with closing(self.comparison.compare(groups)) as matrices:
            for k, matrix in matrices:
                yield k, compared_rows(matrix)

    def evidence(self, value: Row, samples: tuple[int, ...]) -> Preferences:
        return Preferences(samples, value)


def compared_rows(matrix: PreferenceMatrix) -> list[Row | None]:
    """Return the rows of a matrix, None for a solution of which no pair was compared.

    >>> compared_rows(PreferenceMatrix(((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((0, 2), (1, 2))))
    [(0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), None]
    """
    others = len(matrix.values) - 1
    unanswered = [sum(i in pair for pair in matrix.unanswered) for i in range(len(matrix.values))]
    return [None if n == others else row for n, row in zip(unanswered, matrix.values, strict=True)]
