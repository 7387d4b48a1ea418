"""CISPO: REINFORCE with a capped importance ratio, so that no token loses its gradient."""

from __future__ import annotations

from dataclasses import dataclass

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.surrogates import policy_ratio, weighted_score
from lit_tpgrpo.losses.base import LossInputs
from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm


@checked_arguments()
@dataclass(frozen=True)
class CISPO(PolicyLoss):
    """Cap the ratio instead of removing the gradient where the ratio leaves a range.

        objective_t = c_t * sg(clip(kappa_t, floor, cap)) * A_t * log pi(y_t)

    Source: MiniMax-M1 (arXiv 2506.13585, eq. 4), token mean. TRL 1.16's ``cispo`` caps at its ``epsilon_high`` itself (5 in
    ScaleRL, arXiv 2510.13786) and has no floor; verl's clips to ``[1 - clip_low, 1 + clip_high]``: give these as ``floor``
    and ``cap``.

    Args:
        cap: the largest ratio that a token weighs.
        floor: the smallest; 0 sets no bound.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: a bound or the weight is out of range.
    """

    cap: float = 5.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor <= 1 <= self.cap:
            raise ConfigError(
                f"floor must lie between 0 (no bound) and 1, and cap be at least 1, the ratio on-policy; got {self.floor} "
                f"and {self.cap}"
            )

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio = policy_ratio(inputs.logprobs, inputs.old_logprobs)
        score = weighted_score(inputs.logprobs, ratio.clamp(self.floor, self.cap), inputs.advantages)
        return PolicyTerm(score * inputs.importance_weights, {"capped": ratio > self.cap})
