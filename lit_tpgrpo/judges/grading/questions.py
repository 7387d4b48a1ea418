"""Questions about a group of solutions: the prompts that show them, and the verdicts that answer."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.judges.generative.numbered_solution import prompt_text
from lit_tpgrpo.judges.generative.prompts import SHARED, PromptFolder
from lit_tpgrpo.judges.generative.verdicts import MAX_ITEMS, VerdictModel
from lit_tpgrpo.records import Problem

DEFAULT_PROMPTS = Path(__file__).parent / "prompts"
OFFERED: Mapping[str, frozenset[str]] = {
    SHARED: frozenset({"problem", "solutions", "fence", "total"}),
    "grading": frozenset({"id", "total"}),
    "meta": frozenset({"id", "principles", "critiques", "fence"}),
    "comparison": frozenset({"id", "scale"}),
}
"""The prompt files, each with the variables that it may use."""

GRADES = (1, 10)
"""Lowest and highest grade of a solution, those of the paper."""
META_SCORES = (0, 100)


class GroupQuestion(enum.Enum):
    """The kinds of question about a group; the value is the name of the prompt file."""

    GRADING = "grading"
    META = "meta"
    COMPARISON = "comparison"


@dataclass(frozen=True, slots=True)
class SolutionGroup:
    """A problem and the texts of its solutions (thinking and answer block, as sampled), at least one.

    Raises:
        ValueError: there is none.
    """

    problem: Problem
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError(f"problem {self.problem.uid!r} has no solution to grade; expected at least one text")


class Principle(BaseModel):
    """A principle by which solutions are compared, and its weight."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    principle: str
    weight: Annotated[int, Field(ge=1, le=100)]


class GradingVerdict(VerdictModel):
    """Principles, then a critique of each solution by them, then a grade of each, in the order in which they are shown."""

    principles: Annotated[list[Principle], Field(min_length=1, max_length=20)]
    critiques: Annotated[list[str], Field(max_length=MAX_ITEMS)]
    grades: Annotated[list[Annotated[int, Field(ge=GRADES[0], le=GRADES[1])]], Field(max_length=MAX_ITEMS)]


class MetaVerdict(VerdictModel):
    """How good a grading is."""

    score: Annotated[int, Field(ge=META_SCORES[0], le=META_SCORES[1])]


class ComparisonVerdict(VerdictModel):
    """Which of two solutions is better, and how clearly: positive for the first."""

    preference: Annotated[int, Field(ge=-3, le=3)]


@checked_arguments()
class GroupPrompts(PromptFolder):
    """The prompts for questions about a group.

    Args:
        folder: holds ``shared.txt`` and a file for each question; None uses the prompts of the package.

    Raises:
        ConfigError: a file is missing, is not a valid template, or uses variables that it does not declare or that are
            not available.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__(folder, DEFAULT_PROMPTS, OFFERED)

    def shared(self, group: SolutionGroup, order: Sequence[int], max_chars: int) -> str:
        """Render the prefix that shows the solutions ``order`` (indices into the group), numbered from 1 as they are shown.

        Args:
            group: the problem and its solutions.
            order: which solutions are shown, and in what order.
            max_chars: most characters of all solutions; the middle of longer ones is left out, each has the same share.
        """
        share = max_chars // len(order)
        return self.render(
            SHARED,
            problem=prompt_text(group.problem.prompt, max_chars // 2),
            solutions=[(k + 1, prompt_text(group.texts[i], share)) for k, i in enumerate(order)],
            fence=delimiter(group),
            total=len(order),
        )


def delimiter(group: SolutionGroup, replies: Sequence[str] = ()) -> str:
    """Return a delimiter that no text of the group holds and no solver can foresee (injection guard), 8 hexadecimal digits.

    ``replies`` were written by a judge that saw the group's delimiter; one that holds it has another.
    """
    material = (group.problem.prompt, *group.texts)
    found = hashlib.sha256(repr(material).encode(errors="replace")).hexdigest()[:8]
    while any(found in text for text in (*material, *replies)):
        found = hashlib.sha256(found.encode()).hexdigest()[:8]
    return found
