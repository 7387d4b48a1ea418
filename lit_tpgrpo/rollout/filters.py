"""Which solutions of a round are trained on. Each rule is a function; ``KEEP_RULES`` names them for configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lit_tpgrpo.records import CreditedSolution

KeepRule = Callable[[CreditedSolution], bool]
KeepName = Literal["all", "nonzero_advantage", "nonzero_process_reward"]


def keep_all(solution: CreditedSolution) -> bool:
    """Everything, also what has no gradient."""
    return True


def keep_nonzero_advantage(solution: CreditedSolution) -> bool:
    """Solutions with a token that has an advantage. Unlike a filter on outcome variance this keeps an all-correct
    group's wrong thoughts, which still teach."""
    return bool(solution.advantages.any())


def keep_nonzero_process_reward(solution: CreditedSolution) -> bool:
    """The paper's filter: only solutions in which some thought has a process reward."""
    return any(solution.process_rewards)


KEEP_RULES: dict[KeepName, KeepRule] = {
    "all": keep_all,
    "nonzero_advantage": keep_nonzero_advantage,
    "nonzero_process_reward": keep_nonzero_process_reward,
}
