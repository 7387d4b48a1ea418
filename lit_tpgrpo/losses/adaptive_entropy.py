"""A reward for entropy whose weight rises while the policy's entropy is below a target, and falls above it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses.base import LossInputs, LossOutput, LossState, stateful_part
from lit_tpgrpo.losses.policy_loss import check_positive
from lit_tpgrpo.losses.wrapped import EntropyTerm, check_names, refuse_inside


@checked_arguments()
@dataclass(frozen=True)
class AdaptiveEntropyBonus(EntropyTerm):
    """Subtract ``c_k * sum_t w_t H_t`` from another loss, with gradient, where c_k follows the entropy of the step before.

    With H^k the mean entropy of the tokens of step k:

        c_k = coefficient_k if H^(k-1) <= target else 0,   no bonus in the first step
        coefficient_(k+1) = min(coefficient_k + delta, maximum) if H^k <= target else max(coefficient_k - delta, minimum)

    Sources: Skywork-OR1 (arXiv 2505.22312); TRL 1.16's ``use_adaptive_entropy``, whose defaults these are. As in
    ``EntropyBonus``, w_t are those of ``model.normalisation``, where TRL always averages over tokens, and H^k is over all
    tokens inside of ``TopEntropy``, too. The two numbers, coefficient and last entropy, are in checkpoints. A step that the
    gradient scaler of 16-bit precision skips changes both, as in TRL, which does so before the optimizer steps.

    Args:
        loss: the loss beside it.
        target: entropy in nats a token at or below which the bonus is on. TRL's default is near collapse: set it close to
            ``train/entropy`` of the first steps.
        coefficient: of the first step, not negative.
        delta: what the coefficient changes by in a step, above 0.
        minimum: least coefficient, not negative.
        maximum: greatest coefficient.

    Raises:
        ConfigError: a number is out of its range, or the loss inside has an entropy bonus or a state, too.
    """

    target: float = 0.2
    coefficient: float = 0.0
    delta: float = 0.005
    minimum: float = 0.0
    maximum: float = 1.0

    def __post_init__(self) -> None:
        check_positive(target=self.target, delta=self.delta)
        if not 0 <= self.minimum <= self.coefficient <= self.maximum < math.inf:
            raise ConfigError(
                f"coefficient must lie between minimum and maximum, got {self.coefficient} for {self.minimum} and "
                f"{self.maximum}; minimum must not be negative, nor maximum infinite"
            )
        refuse_inside(self, EntropyTerm)
        if stateful_part(self.loss) is not None:
            raise ConfigError("the loss inside of AdaptiveEntropyBonus carries a state, too: keep one of them")

    def initial_state(self) -> LossState:
        """Return the first coefficient, and an entropy above every target: no bonus before one was measured."""
        return {"coefficient": self.coefficient, "entropy": math.inf}

    def next_state(self, state: LossState, measured: Mapping[str, float]) -> LossState:
        """Return the coefficient of the next step, and the entropy that decides about it."""
        entropy, coefficient = measured["entropy"], state["coefficient"]
        if entropy <= self.target:
            return {"coefficient": min(coefficient + self.delta, self.maximum), "entropy": entropy}
        return {"coefficient": max(coefficient - self.delta, self.minimum), "entropy": entropy}

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Compute the sum of the two; ``entropy_coefficient`` is logged as it is applied.

        Raises:
            ValueError: there is no ``differentiable_entropy``, or no ``state``.
            ConfigError: the wrapped loss logs something under one of the two names.
        """
        if inputs.state is None:
            raise ValueError(
                "AdaptiveEntropyBonus needs its state: pass initial_state() or next_state() to loss_inputs"
            )
        applied = inputs.state["coefficient"] if inputs.state["entropy"] <= self.target else 0.0
        output = self.with_entropy_loss(inputs, applied)
        check_names(self, output, "entropy_coefficient")
        applied_everywhere = torch.full_like(inputs.weights, applied)
        return replace(output, token_values={**output.token_values, "entropy_coefficient": applied_everywhere})
