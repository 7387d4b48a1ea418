"""A loss: ``--model.loss examples.parts.loss.CappedReinforce``."""

from dataclasses import dataclass

from lit_tpgrpo import LossInputs, LossOutput


@dataclass(frozen=True)
class CappedReinforce:
    """REINFORCE with a capped importance ratio: -sum_t w_t * c_t * stop_gradient(min(ratio_t, cap)) * A_t * log p_t.

    Args:
        cap: the most that a token's ratio of the new to the old policy may weigh.
    """

    cap: float = 5.0

    def needs_reference(self) -> bool:
        return False

    def __call__(self, inputs: LossInputs) -> LossOutput:
        ratio = (inputs.logprobs - inputs.old_logprobs).exp().detach()
        gain = inputs.importance_weights * ratio.clamp(max=self.cap) * inputs.advantages * inputs.logprobs
        return LossOutput(-(inputs.weights * gain).sum(), token_values={"capped": ratio > self.cap})
