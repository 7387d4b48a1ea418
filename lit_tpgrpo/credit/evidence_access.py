"""Find the evidence of a kind on a judged solution."""

from __future__ import annotations

from typing import TypeVar

from lit_tpgrpo.evidence import Evidence
from lit_tpgrpo.records import JudgedSolution

E = TypeVar("E", bound=Evidence)


def evidence_of(judged: JudgedSolution, kind: type[E]) -> E | None:
    """Return the evidence of a kind, None if its provider gave none on this solution."""
    return next((record for record in judged.evidence if isinstance(record, kind)), None)


def check_step_count(judged: JudgedSolution, count: int, what: str) -> None:
    """Check that evidence on steps has one entry for each step of the verdict.

    Raises:
        ValueError: it has not.
    """
    if count != len(judged.verdict.steps):
        raise ValueError(
            f"sample {judged.solution.sample} of problem {judged.solution.problem_uid!r} has {count} {what} for "
            f"{len(judged.verdict.steps)} steps; expected one each"
        )
