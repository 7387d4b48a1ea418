"""PPO's clipped surrogate with one advantage per token and a KL term, as in GRPO and DAPO."""

from __future__ import annotations

from dataclasses import dataclass

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.functional.kl import KLName
from lit_tpgrpo.functional.surrogates import clipped_surrogate, policy_ratio
from lit_tpgrpo.losses.base import LossInputs, LossOutput
from lit_tpgrpo.losses.metrics import clipped_tokens
from lit_tpgrpo.losses.policy_loss import PolicyTerm, add_kl, check_clip, check_kl_beta


@checked_arguments()
@dataclass(frozen=True)
class ClippedSurrogate:
    """Penalise the ratio of new to old policy for leaving the clip range, and the distance to the reference.

    Sources: GRPO, DeepSeekMath (arXiv 2402.03300, eq. 3); separate clip bounds, DAPO (arXiv 2503.14476, eq. 10).

    Args:
        clip_low: lower epsilon: ratios under ``1 - clip_low`` stop pushing down. TP-GRPO's is unpublished, TRL's 0.2.
        clip_high: upper epsilon: ratios over ``1 + clip_high`` stop pushing up. TP-GRPO's is unpublished, DAPO's 0.28.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory. TP-GRPO has the term, its
            weight is unpublished.
        kl_estimator: ``k1``, ``k2`` or ``k3``, or ``k2_unbiased`` or ``k3_unbiased``, which correct for off-policy tokens;
            see ``lit_tpgrpo.functional.kl``. TP-GRPO's is unpublished.

    Raises:
        ConfigError: a bound or the weight is out of range.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_beta: float = 0.0
    kl_estimator: KLName = "k3"

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        check_kl_beta(self.kl_beta)

    def needs_reference(self) -> bool:
        """Tell whether there is a KL term."""
        return self.kl_beta > 0

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss, with weights w_t and importance weights c_t, both constants, the latter not on the KL term:

            ratio_t = exp(min(logprob_t - old_logprob_t, 20))
            loss = sum_t w_t * (-c_t * min(ratio_t * A_t, clip(ratio_t, 1 - clip_low, 1 + clip_high) * A_t) + kl_beta * kl_t)

        Raises:
            ValueError: there is a KL term and no ``ref_logprobs``.
        """
        ratio = policy_ratio(inputs.logprobs, inputs.old_logprobs)
        surrogate = clipped_surrogate(ratio, inputs.advantages, self.clip_low, self.clip_high)
        marks = clipped_tokens(ratio, inputs.advantages, self.clip_low, self.clip_high)
        term = PolicyTerm(surrogate * inputs.importance_weights, marks)
        return add_kl(inputs, term, self.kl_estimator, self.kl_beta)
