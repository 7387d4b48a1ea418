"""What losses that change another loss have in common."""

# No postponed annotations here: a subclass's constructor has these fields, and their names are not in its module.

from abc import abstractmethod
from dataclasses import dataclass, replace

from torch import Tensor

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses.base import LossInputs, LossOutput, TokenLoss, entropy_quantile


@dataclass(frozen=True)
class WrappedLoss(TokenLoss):
    """Pass on what another loss needs.

    Args:
        loss: the loss that is changed.
    """

    loss: TokenLoss

    def needs_reference(self) -> bool:
        """Tell whether the wrapped loss needs it."""
        return self.loss.needs_reference()

    def entropy_quantile(self) -> float | None:
        """Return the quantile that the wrapped loss asks for."""
        return entropy_quantile(self.loss)


def refuse_own_kind(loss: WrappedLoss) -> None:
    """Refuse a loss around another of its class, in which both would be logged under one name.

    Raises:
        ConfigError: there is one, at any depth.
    """
    inner: object = loss.loss
    while isinstance(inner, WrappedLoss):
        if type(inner) is type(loss):
            raise ConfigError(f"one {type(loss).__name__} is inside of another: keep one of them")
        inner = inner.loss


@dataclass(frozen=True)
class MaskedLoss(WrappedLoss):
    """Leave tokens out of another loss's policy term, by an advantage of 0, and keep them in its KL term.

    Ratios of whole solutions keep all of their tokens, and weights still divide by all tokens.
    """

    @abstractmethod
    def left_out(self, inputs: LossInputs) -> tuple[str, Tensor]:
        """Return a name to log the share of these tokens under, and (N,) bool."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Compute the wrapped loss with advantage 0 for the tokens that are left out.

        Raises:
            ConfigError: the wrapped loss logs something under the same name.
        """
        name, left_out = self.left_out(inputs)
        output = self.loss(replace(inputs, advantages=inputs.advantages.masked_fill(left_out, 0.0)))
        if name in output.terms or name in output.token_values:
            raise ConfigError(f"{type(self).__name__} logs {name}, and so does the loss inside: keep one of them")
        return replace(output, token_values={**output.token_values, name: left_out})
