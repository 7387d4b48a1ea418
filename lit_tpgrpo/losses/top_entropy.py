"""The policy gradient of the tokens with the highest entropy alone: where the policy decides."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses.base import LossInputs, needs_one_advantage_per_solution
from lit_tpgrpo.losses.wrapped import MaskedLoss


@checked_arguments()
@dataclass(frozen=True)
class TopEntropy(MaskedLoss):
    """Leave out tokens whose entropy is below a quantile of the optimizer step's.

        A_t = 0 if H_t < quantile(H of all tokens of the step, 1 - share)

    Source: "Beyond the 80/20 Rule" (arXiv 2506.01939); TRL 1.16's ``top_entropy_quantile``, which takes the quantile of a
    micro-batch over all ranks. Here it is the whole step's, so that micro-batches change nothing; that costs a forward pass of
    the step. The KL term keeps all tokens, as in TRL. Not around ``GSPO``, whose advantages may not differ in a solution.

    Args:
        loss: of the tokens that are left.
        share: of tokens with the highest entropy, in (0, 1).

    Raises:
        ConfigError: the share is out of range, the loss inside asks for a quantile, too, or it needs one advantage per
            solution.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"share must lie between 0 and 1, got {self.share}")
        if super().entropy_quantile() is not None:
            raise ConfigError(
                "one TopEntropy is inside of another: a step has one quantile of entropy; keep one of them"
            )
        if needs_one_advantage_per_solution(self.loss):
            raise ConfigError(
                "TopEntropy leaves out single tokens, and GSPO at the sequence level needs one advantage per solution: wrap "
                "lit_tpgrpo.GSPOToken"
            )

    def entropy_quantile(self) -> float:
        """Return the quantile from which tokens are kept."""
        return 1.0 - self.share

    def left_out(self, inputs: LossInputs) -> tuple[str, Tensor]:
        """Mark tokens below the threshold.

        Raises:
            ValueError: there is no threshold.
        """
        if inputs.entropy_threshold is None:
            raise ValueError("TopEntropy needs entropy_threshold, the quantile of the step's entropies; got None")
        return "low_entropy", inputs.entropy < inputs.entropy_threshold
