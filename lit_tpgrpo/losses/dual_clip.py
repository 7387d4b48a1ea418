"""The clipped surrogate with a bound on the ratio of tokens with a negative advantage: dual clip, two-sided clip."""

from __future__ import annotations

from dataclasses import dataclass

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.surrogates import clipped_surrogate, policy_ratio
from lit_tpgrpo.losses.base import LossInputs
from lit_tpgrpo.losses.metrics import clipped_tokens
from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm, check_clip


@checked_arguments()
@dataclass(frozen=True)
class DualClip(PolicyLoss):
    """Bound the clipped surrogate from below: with a negative advantage, a ratio over ``delta`` has no gradient.

    ``ClippedSurrogate`` leaves such ratios unbounded: a token that the policy in training finds 1,000 times likelier than the
    one that sampled is pushed down with a weight of 1,000.

        objective_t = c_t * min(min(kappa_t, delta) * A_t, clip(kappa_t, 1 - clip_low, 1 + clip_high) * A_t)

    Sources: dual-clip PPO (arXiv 1912.09729, eq. 5; there ``c``); two-sided clip, INTELLECT-2 (arXiv 2505.07291); TRL 1.16's
    ``delta``. The two forms are the same function for ``delta > 1 + clip_high``. TRL's code has no default; 4 is
    INTELLECT-2's, second-hand.

    Args:
        clip_low: lower epsilon: ratios under ``1 - clip_low`` stop pushing down.
        clip_high: upper epsilon: ratios over ``1 + clip_high`` stop pushing up.
        delta: the largest ratio of a token with a negative advantage; above ``1 + clip_high``. 4 is second-hand.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: a bound or the weight is out of range.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    delta: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.clip_low, self.clip_high)
        if not self.delta > 1 + self.clip_high:
            raise ConfigError(
                f"delta must be above 1 + clip_high, {1 + self.clip_high:g}, for it bounds ratios that the clip does not; "
                f"got {self.delta}"
            )

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio = policy_ratio(inputs.logprobs, inputs.old_logprobs)
        advantages = inputs.advantages
        # min(kappa, delta) first: for a positive advantage the clip is the tighter bound.
        surrogate = clipped_surrogate(ratio.clamp(max=self.delta), advantages, self.clip_low, self.clip_high)
        marks = clipped_tokens(ratio, advantages, self.clip_low, self.clip_high)
        return PolicyTerm(
            surrogate * inputs.importance_weights,
            marks | {"clipped_dual": (ratio > self.delta) & (advantages < 0)},
        )
