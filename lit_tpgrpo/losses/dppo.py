"""DPPO with binary total variation: the trust region is a difference of probabilities, not a ratio."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.functional.surrogates import policy_ratio, weighted_score
from lit_tpgrpo.losses.base import LossInputs
from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm, check_positive


@checked_arguments()
@dataclass(frozen=True)
class DPPOTotalVariation(PolicyLoss):
    """Drop a token's gradient where its probability moved too far already in the direction of its advantage.

        M_t = 0 if A_t > 0 and pi(y_t) - pi_old(y_t) > tv_high, or A_t <= 0 and pi(y_t) - pi_old(y_t) < -tv_low; else 1
        objective_t = c_t * M_t * sg(min(kappa_t, cap)) * A_t * log pi(y_t)

    |pi(y) - pi_old(y)| is the total variation of the two distributions after all other tokens are taken for one ("binary").
    A ratio's clip holds rare tokens back for a change that hardly counts and lets likely ones move far.

    Source: DPPO (arXiv 2602.04879), token mean; checked against verl's ``dppo_tv`` and the defaults of TRL's experimental
    trainer (0.15, the paper's for total variation; cap 20). ``pi_old`` is the policy that sampled, or with
    ``data.correction`` the trainer's own of that moment, as in verl.

    Args:
        tv_low: how far the probability of a token may fall.
        tv_high: how far it may rise.
        cap: the largest ratio that a token weighs.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: a value is out of range.
    """

    tv_low: float = 0.15
    tv_high: float = 0.15
    cap: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(tv_low=self.tv_low, tv_high=self.tv_high, cap=self.cap)

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio = policy_ratio(inputs.logprobs, inputs.old_logprobs).detach()
        moved = inputs.logprobs.detach().exp() - inputs.old_logprobs.exp()
        dropped = torch.where(inputs.advantages > 0, moved > self.tv_high, moved < -self.tv_low)
        weight = ratio.clamp(max=self.cap).masked_fill(dropped, 0.0)
        score = weighted_score(inputs.logprobs, weight, inputs.advantages)
        return PolicyTerm(score * inputs.importance_weights, {"dropped": dropped, "capped": ratio > self.cap})
