"""PrinciplesGrades: evidence from grades of the solutions of each group by principles and critiques (SPCT)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.evidence import Evidence, SolutionGrade
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.judges.evidence.graded_groups import GradedGroups
from lit_tpgrpo.judges.grading.principles import COUNTERS, PrinciplesGrader
from lit_tpgrpo.judges.grading.questions import GRADES, SolutionGroup

Grade = Annotated[float, Field(ge=GRADES[0], le=GRADES[1])]
MEANS: TypeAdapter[list[float | None]] = TypeAdapter(list[Grade | None])


@checked_arguments()
class PrinciplesGrades(GradedGroups[float]):
    """Grade the solutions of each group from 1 to 10, by ``PrinciplesGrader``; undecided ones are left out.

    The grade is the mean over the gradings that the grader keeps: a sum, the source's, would depend on how many could be read.
    A group without a readable grading has no grades.

    Args:
        grader: asks the LLM, which must not be the policy itself.

    Raises:
        ConfigError: the LLM is the policy in training.
    """

    def __init__(self, grader: PrinciplesGrader) -> None:
        super().__init__(grader, MEANS, COUNTERS)
        self.grader = grader

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the grades depend on."""
        return {"grader": settings_of(self.grader)}

    @property
    def gives(self) -> type[Evidence]:
        return SolutionGrade

    def ask(self, groups: Sequence[SolutionGroup]) -> Generator[tuple[int, list[float | None]], None, None]:
        with closing(self.grader.grade(groups)) as results:
            for k, grades in results:
                yield k, [None] * len(groups[k].texts) if grades.means is None else list(grades.means)

    def evidence(self, value: float, samples: tuple[int, ...]) -> SolutionGrade:
        return SolutionGrade(value, *map(float, GRADES))
