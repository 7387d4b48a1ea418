"""A reward for the entropy of the policy's distribution, beside another loss."""

from __future__ import annotations

from dataclasses import dataclass

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.losses.base import LossInputs, LossOutput
from lit_tpgrpo.losses.policy_loss import check_positive
from lit_tpgrpo.losses.wrapped import EntropyTerm, refuse_inside


@checked_arguments()
@dataclass(frozen=True)
class EntropyBonus(EntropyTerm):
    """Subtract ``coefficient * sum_t w_t H_t`` from another loss, H_t the entropy at each token, with gradient.

    Sources: A3C (arXiv 1602.01783); TRL 1.16's ``entropy_coef``, which is always a mean over tokens, while w_t here are those
    of ``model.normalisation``: the same for ``token``. ``AdaptiveEntropyBonus`` has TRL's adaptive coefficient.

    Args:
        loss: the loss beside it.
        coefficient: weight of the entropy, above 0. Without a published value for this method.

    Raises:
        ConfigError: the coefficient is not above 0, or the loss inside has an entropy bonus, too, adaptive or not.
    """

    coefficient: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(coefficient=self.coefficient)
        refuse_inside(self, EntropyTerm)

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Compute the sum of the two.

        Raises:
            ValueError: there is no ``differentiable_entropy``.
            ConfigError: the wrapped loss logs something as ``entropy_loss``.
        """
        return self.with_entropy_loss(inputs, self.coefficient)
