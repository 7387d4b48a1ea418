"""Solutions that the policy has moved away from are not pushed down any further."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.losses.base import LossInputs
from lit_tpgrpo.losses.policy_loss import check_positive
from lit_tpgrpo.losses.wrapped import MaskedLoss, refuse_inside


@checked_arguments()
@dataclass(frozen=True)
class StaleNegatives(MaskedLoss):
    """Leave out tokens with a negative advantage in solutions whose log-prob has fallen by more than a threshold.

        A_t = 0 if A_t < 0 and mean over the solution of (log pi_old - log pi) > threshold

    Source: off-policy sequence masking, DeepSeek-V3.2 (arXiv 2512.02556, eq. 9); TRL 1.16's ``off_policy_mask_threshold``.
    There one advantage belongs to a solution, and the whole solution is left out; of a solution with advantages of tokens those
    that are pushed up are kept. The KL term keeps all tokens, as in TRL. ``pi_old`` is the engine's, or with
    ``data.correction`` the trainer's own: then the engine's mismatch is no part of the distance.

    Args:
        loss: of the tokens that are left.
        threshold: nats a token, above 0. The source's value is unpublished; 0.5 is the example in TRL's documentation.

    Raises:
        ConfigError: the threshold is not above 0, or there is another one inside.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_positive(threshold=self.threshold)
        refuse_inside(self, StaleNegatives)

    def left_out(self, inputs: LossInputs) -> tuple[str, Tensor]:
        """Mark the tokens that are not pushed down."""
        fallen = inputs.sequence_mean(inputs.old_logprobs - inputs.logprobs.detach())
        return "stale", (inputs.advantages < 0) & (fallen > self.threshold)
