"""MiniRL: REINFORCE with token importance weights and a clip that only drops gradients."""

from __future__ import annotations

from dataclasses import dataclass

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.functional.surrogates import policy_ratio, weighted_score
from lit_tpgrpo.losses.base import LossInputs
from lit_tpgrpo.losses.metrics import clipped_tokens
from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm, check_clip, check_positive


@checked_arguments()
@dataclass(frozen=True)
class MiniRL(PolicyLoss):
    """Weigh each token by its whole importance ratio, and drop those whose ratio left the clip range.

        M_t = 0 if A_t > 0 and kappa_t > 1 + clip_high, or A_t < 0 and kappa_t < 1 - clip_low; else 1
        objective_t = M_t * sg(min(kappa_t * c_t, cap)) * A_t * log pi(y_t)

    kappa_t * c_t is pi / mu, the policy in training over the engine that sampled: both the drift of the weights and the
    engine's mismatch. Without ``data.correction`` the old log-probs are the engine's and c_t is 1, and the same ratio
    decides M_t; the paper's M_t is of the trainer's log-probs alone, which needs a correction (``token_truncate``
    with a large cap).

    Source: MiniRL (arXiv 2512.01374). Use ``normalisation: sequence_sum``: the paper sums over tokens, and says that dividing
    by the length harms stability. Its advantage is the reward minus the group's mean. ``cap`` is second-hand.

    Args:
        clip_low: lower epsilon of kappa_t.
        clip_high: upper epsilon of kappa_t.
        cap: the largest weight; second-hand.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: a bound or the weight is out of range.
    """

    clip_low: float = 0.2
    clip_high: float = 0.27
    cap: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.clip_low, self.clip_high)
        check_positive(cap=self.cap)

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio = policy_ratio(inputs.logprobs, inputs.old_logprobs).detach()
        whole = ratio * inputs.importance_weights
        marks = clipped_tokens(ratio, inputs.advantages, self.clip_low, self.clip_high)
        weight = whole.clamp(max=self.cap).masked_fill(marks["clipped_low"] | marks["clipped_high"], 0.0)
        score = weighted_score(inputs.logprobs, weight, inputs.advantages)
        return PolicyTerm(score, marks | {"capped": whole > self.cap})
