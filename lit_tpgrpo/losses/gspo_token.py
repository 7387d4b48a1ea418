"""GSPO-token: the clip range holds the ratio of a whole solution, and each token keeps its own advantage."""

from __future__ import annotations

from dataclasses import dataclass

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.functional.surrogates import clipped_surrogate
from lit_tpgrpo.losses.base import LossInputs
from lit_tpgrpo.losses.gspo import sequence_ratio
from lit_tpgrpo.losses.metrics import clipped_tokens
from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm, check_clip


@checked_arguments()
@dataclass(frozen=True)
class GSPOToken(PolicyLoss):
    """Clip the geometric mean of a solution's ratios, with an advantage for each token: the form for process rewards.

        s_i = exp(mean_t (log pi - log pi_old))
        s_it = sg(s_i) * pi(y_t) / sg(pi(y_t))               its value is s_i, its gradient s_i * grad log pi(y_t)
        objective_t = c_t * min(s_it * A_t, clip(s_it, 1 - clip_low, 1 + clip_high) * A_t)

    With one advantage per solution and ``normalisation: sequence`` its value and gradient are those of ``GSPO``. Source: GSPO
    (arXiv 2507.18071, section 4.3); verl's ``gspo`` is this form, too. TRL 1.16 does not have it.

    Args:
        clip_low: lower epsilon of s_i. Three orders smaller than for tokens, because a mean of many varies less.
        clip_high: upper epsilon of s_i.
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: a bound or the weight is out of range.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.clip_low, self.clip_high)

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        value = sequence_ratio(inputs).detach()
        ratio = value * (inputs.logprobs - inputs.logprobs.detach()).exp()
        surrogate = clipped_surrogate(ratio, inputs.advantages, self.clip_low, self.clip_high)
        marks = clipped_tokens(value, inputs.advantages, self.clip_low, self.clip_high)
        return PolicyTerm(surrogate * inputs.importance_weights, marks | {"sequence_ratio": value})
