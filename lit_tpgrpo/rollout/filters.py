"""Keep rules: which solutions of a round are trained on. ``KEEP_RULES`` names ours; any function may be one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from lit_tpgrpo.arguments import accepted, shown
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import callable_name
from lit_tpgrpo.records import CreditedSolution, StopReason

KeepRule = Callable[[CreditedSolution], bool]
KeepName = Literal["all", "nonzero_advantage", "nonzero_process_reward"]
TruncatedName = Literal["rewarded", "masked"]


def keep_all(solution: CreditedSolution) -> bool:
    """Keep everything, solutions without a gradient too."""
    return True


def keep_nonzero_advantage(solution: CreditedSolution) -> bool:
    """Keep solutions with a nonzero token advantage.

    Unlike a filter on outcome variance this keeps the incorrect thoughts of an all-correct group, which carry a gradient.
    """
    return bool(solution.advantages.any())


def keep_nonzero_process_reward(solution: CreditedSolution) -> bool:
    """Keep solutions with a nonzero process reward: the paper's filter."""
    return any(solution.process_rewards)


KEEP_RULES: dict[KeepName, KeepRule] = {
    "all": keep_all,
    "nonzero_advantage": keep_nonzero_advantage,
    "nonzero_process_reward": keep_nonzero_process_reward,
}


@dataclass(frozen=True)
class WithoutTruncated:
    """Keep what a rule keeps, unless the token limit cut the solution short (DAPO's overlong filtering, section 3.4)."""

    rule: KeepRule

    def __call__(self, solution: CreditedSolution) -> bool:
        return solution.judged.solution.stop is not StopReason.LENGTH and is_kept(self.rule, solution)


def with_truncated(rule: KeepRule, truncated: TruncatedName) -> KeepRule:
    """Return a rule that keeps truncated solutions as ``rule`` does (``rewarded``), or none of them (``masked``).

    A masked solution is in no batch: it counts neither in the loss nor in the tokens or solutions by which the loss is
    divided. Its outcome counts in acc_G, and its reward in its group's mean and standard deviation.
    """
    return WithoutTruncated(rule) if truncated == "masked" else rule


def as_keep_rule(value: Any, where: str) -> KeepRule:
    """Return the keep rule of a name; a function or callable object is one itself.

    Raises:
        ConfigError: it is neither; ``where`` names the argument.
    """
    if isinstance(value, str):
        return KEEP_RULES[accepted(value, KeepName, where)]
    if isinstance(value, type):
        raise ConfigError(f"{where}: got {shown(value)}; give an object: {value.__name__}(...)")
    if not callable(value):
        raise ConfigError(
            f"{where}: expected {', '.join(KEEP_RULES)} or a function (CreditedSolution) -> bool, got {shown(value)}"
        )
    return cast(KeepRule, value)


def is_kept(rule: KeepRule, solution: CreditedSolution) -> bool:
    """Apply a keep rule to one solution.

    Raises:
        ConfigError: the rule returned something other than a bool (of Python, numpy or torch).
    """
    result: Any = rule(solution)
    if isinstance(result, bool) or (
        str(getattr(result, "dtype", "")).removeprefix("torch.") == "bool" and getattr(result, "ndim", None) == 0
    ):
        return bool(result)
    raise ConfigError(
        f"data.keep: {callable_name(rule)} must return True (train on the solution) or False, got {shown(result)}"
    )
