"""What our losses have in common: a policy term for each token, and a KL term beside it."""

# No postponed annotations here: a subclass's constructor has these fields, and their names are not in its module.

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.kl import KLName, kl_penalty
from lit_tpgrpo.losses.base import LossInputs, LossOutput, TokenLoss


class PolicyTerm(NamedTuple):
    """``objective`` (N,) is maximised, importance weights included; ``token_values`` (N,) are logged, see ``LossOutput``."""

    objective: Tensor
    token_values: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class PolicyLoss(TokenLoss):
    """Add a KL term to the policy term that a subclass defines in ``policy_term``.

    Args:
        kl_beta: weight of the KL term to the frozen initial policy; 0 keeps no reference in memory.
        kl_estimator: ``k1``, ``k2`` or ``k3``, or ``k2_unbiased`` or ``k3_unbiased``, which correct for off-policy tokens;
            see ``lit_tpgrpo.functional.kl``.

    Raises:
        ConfigError: the weight is negative.
    """

    kl_beta: float = 0.0
    kl_estimator: KLName = "k3"

    def __post_init__(self) -> None:
        check_kl_beta(self.kl_beta)

    def needs_reference(self) -> bool:
        """Tell whether there is a KL term."""
        return self.kl_beta > 0

    @abstractmethod
    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        """Compute what each token adds to the objective, before the weights w_t."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss: sum_t w_t * (-objective_t + kl_beta * kl_t). Importance weights are not on the KL term.

        Raises:
            ValueError: there is a KL term and no ``ref_logprobs``.
        """
        return add_kl(inputs, self.policy_term(inputs), self.kl_estimator, self.kl_beta)


def add_kl(inputs: LossInputs, term: PolicyTerm, estimator: KLName, beta: float) -> LossOutput:
    """Compute the loss of a policy term with a KL term: sum_t w_t * (-objective_t + beta * kl_t).

    ``kl_ref`` is logged where there are log-probs under the reference, and not as 0 where there are none.

    Raises:
        ValueError: there is a KL term and no ``ref_logprobs``.
    """
    policy_loss = -(inputs.weights * term.objective).sum()
    kl = kl_penalty(inputs.logprobs, inputs.old_logprobs, inputs.ref_logprobs, inputs.weights, estimator, beta)
    return LossOutput(
        loss=policy_loss + kl.loss,
        terms={"policy_loss": policy_loss, "kl_loss": kl.loss},
        token_values={**term.token_values, **({} if inputs.ref_logprobs is None else {"kl_ref": kl.per_token})},
    )


def check_kl_beta(kl_beta: float) -> None:
    """Refuse a weight of the KL term that is negative or not finite.

    Raises:
        ConfigError: names it.
    """
    if not 0 <= kl_beta < math.inf:
        raise ConfigError(f"kl_beta must be 0 (no reference) or positive and finite, got {kl_beta}")


def check_clip(clip_low: float, clip_high: float) -> None:
    """Refuse clip bounds that are out of range.

    Raises:
        ConfigError: names both.
    """
    if not (0 <= clip_low < 1 and clip_high >= 0):
        raise ConfigError(f"clip_low must lie in [0, 1) and clip_high be at least 0, got {clip_low} and {clip_high}")


def check_positive(**values: float) -> None:
    """Refuse a value that is not above 0.

    Raises:
        ConfigError: names the first one.
    """
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name} must be above 0, got {value}")
