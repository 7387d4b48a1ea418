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


def refuse_inside(loss: WrappedLoss, kind: type[TokenLoss]) -> None:
    """Refuse a loss around one of a kind, in which both would be logged under one name.

    Raises:
        ConfigError: there is one, at any depth.
    """
    inner: object = loss.loss
    while isinstance(inner, TokenLoss):
        if isinstance(inner, kind):
            outer = "another" if type(inner) is type(loss) else type(loss).__name__
            raise ConfigError(f"one {type(inner).__name__} is inside of {outer}: keep one of them")
        inner = getattr(inner, "loss", None)


def check_names(loss: WrappedLoss, output: LossOutput, *names: str) -> None:
    """Check that what a loss is about to log is not among what the one inside logs.

    Raises:
        ConfigError: it is: it would replace the other, and the terms would not add up to the loss.
    """
    taken = [name for name in names if name in output.terms or name in output.token_values]
    if taken:
        raise ConfigError(f"{type(loss).__name__} logs {taken[0]}, and so does the loss inside: keep one of them")


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
        check_names(self, output, name)
        return replace(output, token_values={**output.token_values, name: left_out})


@dataclass(frozen=True)
class EntropyTerm(WrappedLoss):
    """Add the term ``entropy_loss = -coefficient * sum_t w_t H_t``, with gradient, to another loss without one.

    Subclasses call ``refuse_inside(self, EntropyTerm)`` when they are built.
    """

    def with_entropy_loss(self, inputs: LossInputs, coefficient: float) -> LossOutput:
        """Compute the sum of the two.

        Raises:
            ValueError: there is no ``differentiable_entropy``.
            ConfigError: the wrapped loss logs something as ``entropy_loss``.
        """
        if inputs.differentiable_entropy is None:
            raise ValueError("an entropy bonus needs the entropy: pass it to loss_inputs")
        output = self.loss(inputs)
        check_names(self, output, "entropy_loss")
        entropy_loss = -coefficient * (inputs.weights * inputs.differentiable_entropy).sum()
        return replace(output, loss=output.loss + entropy_loss, terms={**output.terms, "entropy_loss": entropy_loss})
