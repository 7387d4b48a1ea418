"""SAPO: a sigmoid of the ratio in place of the clip, steeper for tokens that are pushed down."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.functional.surrogates import policy_ratio
from lit_tpgrpo.losses.base import LossInputs
from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm, check_positive


@checked_arguments()
@dataclass(frozen=True)
class SAPO(PolicyLoss):
    """Fade a token's gradient out smoothly, the farther its ratio is from 1.

        gate_t = sigmoid(tau_t * (kappa_t - 1));  tau_t = tau_positive if A_t > 0 else tau_negative
        objective_t = c_t * (4 / tau_t) * gate_t * A_t           gradient: 4 gate_t (1 - gate_t) kappa_t A_t grad log pi

    Source: SAPO (arXiv 2511.20347), ``normalisation: sequence``; TRL 1.16's ``sapo``.

    Args:
        tau_positive: temperature of tokens with a positive advantage; larger fades sooner.
        tau_negative: of the others, which include all tokens with advantage 0.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: a temperature or the weight is out of range.
    """

    tau_positive: float = 1.0
    tau_negative: float = 1.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(tau_positive=self.tau_positive, tau_negative=self.tau_negative)

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        advantages = inputs.advantages
        tau = torch.full_like(advantages, self.tau_negative).masked_fill(advantages > 0, self.tau_positive)
        gate = torch.sigmoid(tau * (policy_ratio(inputs.logprobs, inputs.old_logprobs) - 1.0))
        objective = inputs.importance_weights * (4.0 / tau) * gate * advantages
        return PolicyTerm(objective, {"soft_weight": 4.0 * gate * (1.0 - gate)})
