"""The paper's ablation "without merging": a reward for every step, summed over all that follow."""

from __future__ import annotations

from lit_tpgrpo.credit.assign import credit_steps
from lit_tpgrpo.credit.thoughts import (
    ability_reward,
    check_scale,
    check_standardisation,
    outcome_advantages,
    single_steps,
)
from lit_tpgrpo.records import CreditedSolution, JudgedGroup


class StepCredit:
    """Step-level rewards. Advantages grow with the number of steps that follow, which is why the paper merges.

    Args:
        alpha: scale of the process reward.
        ddof: of the group's standard deviation; 1 as the usual GRPO trainers, the paper does not say.
        eps: added to the standard deviation.

    Raises:
        ConfigError: alpha is not positive, ddof not 0 or 1, eps negative.
    """

    def __init__(self, alpha: float = 1.0, ddof: int = 1, eps: float = 1e-6) -> None:
        check_scale("alpha", alpha)
        check_standardisation(ddof, eps)
        self.alpha = alpha
        self.ddof = ddof
        self.eps = eps

    def __call__(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]:
        """Credit for each solution of the group, in its order."""
        outcomes = outcome_advantages(group, self.ddof, self.eps)
        r_c = ability_reward(self.alpha, group)
        return tuple(
            credit_steps(judged, outcome, single_steps(judged.verdict), r_c)
            for judged, outcome in zip(group.solutions, outcomes, strict=True)
        )
