"""GSPO: the clip range holds the ratio of a whole solution, with one advantage for all of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.surrogates import MAX_LOG_RATIO, clipped_surrogate
from lit_tpgrpo.losses.base import LossInputs
from lit_tpgrpo.losses.metrics import clipped_tokens
from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm, check_clip


@checked_arguments()
@dataclass(frozen=True)
class GSPO(PolicyLoss):
    """Clip the geometric mean of a solution's ratios; needs one advantage per solution.

        s_i = (prod_t kappa_t)^(1/L_i) = exp(mean_t (log pi - log pi_old))
        objective_t = c_t * min(s_i * A_i, clip(s_i, 1 - clip_low, 1 + clip_high) * A_i)

    Every token of the solution gets the gradient of s_i. Were the advantages different, each token would be pushed by their
    mean, whichever of them were its own: credit for tokens would be lost without a sign of it. So that is refused;
    ``GSPOToken`` is GSPO's form for such advantages.

    Use it with ``normalisation: sequence`` (the paper's), or with ``sequence_sum``: that is LUSPO (arXiv 2602.05261). Source:
    GSPO (arXiv 2507.18071, eq. 5; the bounds are those of its experiments), TRL 1.16's ``importance_sampling_level:
    sequence``. One difference: TRL multiplies its unbiased KL by s_i, ``k3_unbiased`` by the token's own ratio.

    Args:
        clip_low: lower epsilon of s_i. Three orders smaller than for tokens, because a mean of many varies less.
        clip_high: upper epsilon of s_i.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: a bound or the weight is out of range; when called, a solution's advantages differ.
    """

    one_advantage_per_solution: ClassVar[bool] = True

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.clip_low, self.clip_high)

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        _refuse_token_advantages(inputs)
        ratio = sequence_ratio(inputs)
        surrogate = clipped_surrogate(ratio, inputs.advantages, self.clip_low, self.clip_high)
        marks = clipped_tokens(ratio, inputs.advantages, self.clip_low, self.clip_high)
        return PolicyTerm(surrogate * inputs.importance_weights, marks | {"sequence_ratio": ratio})


def sequence_ratio(inputs: LossInputs) -> Tensor:
    """Compute s_i, the geometric mean of a solution's ratios, for each of its tokens: (N,), at most e^20."""
    return inputs.sequence_mean(inputs.logprobs - inputs.old_logprobs).clamp(max=MAX_LOG_RATIO).exp()


def _refuse_token_advantages(inputs: LossInputs) -> None:
    advantages, rows = inputs.advantages[inputs.mask], inputs.row[inputs.mask]
    bounds = [
        advantages.new_zeros(len(inputs.lengths)).scatter_reduce(0, rows, advantages, kind, include_self=False)
        for kind in ("amin", "amax")
    ]
    differ = torch.nonzero(bounds[0] != bounds[1])
    if len(differ):
        low, high = (float(bound[differ[0, 0]]) for bound in bounds)
        raise ConfigError(
            f"GSPO at the sequence level takes one advantage per solution, and this one's tokens have {low:g} to {high:g}: "
            "use lit_tpgrpo.GSPOToken, its form for token advantages, or a credit with one advantage per solution "
            "(lit_tpgrpo.OutcomeCredit)"
        )
