"""The policy network: a causal language model that returns log-probs of given tokens, never whole logits."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_tpgrpo.functional.logprobs import selected_logprobs
from lit_tpgrpo.pretrained import head_of
from lit_tpgrpo.training.microbatches import MicroBatch


class PolicyModel(nn.Module):
    """Log-probs of the completion tokens of a micro-batch.

    The head runs inside ``forward`` on completion positions only and in tiles, so that the (tokens, vocabulary) logits
    never exist, and so that a sharded root gathers the head's weight with its other parameters.
    """

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
        self.causal_lm = causal_lm

    def forward(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Return ``(logprobs, entropy)`` of ``batch.targets``, each (N,), float32.

        Both are of softmax(logits / temperature) and differentiable.
        """
        hidden = self.causal_lm.base_model(**batch.model_inputs, use_cache=False).last_hidden_state
        weight, bias = head_of(self.causal_lm)
        return selected_logprobs(
            hidden.flatten(0, 1)[batch.predictors],
            weight,
            batch.targets,
            temperature=temperature,
            bias=bias,
        )
