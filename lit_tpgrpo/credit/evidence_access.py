"""Find the evidence of a kind on a judged solution."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from lit_tpgrpo.evidence import Evidence, TokenRewards
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


def token_rewards_of(judged: JudgedSolution) -> Tensor | None:
    """Return a solution's token rewards, float64 (L,); None without any.

    Raises:
        ValueError: there is not one for each token.
    """
    given, solution = evidence_of(judged, TokenRewards), judged.solution
    if given is None:
        return None
    if len(given.values) != len(solution.completion_ids):
        raise ValueError(
            f"sample {solution.sample} of problem {solution.problem_uid!r} has {len(given.values)} token rewards for "
            f"{len(solution.completion_ids)} tokens; expected one each"
        )
    return torch.tensor(given.values, dtype=torch.float64) if given.values else None
