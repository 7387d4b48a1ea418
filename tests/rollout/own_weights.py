"""An engine that samples from a copy of the weights, as servers do, in this process."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.hf import HFEngine


class OwnWeights(HFEngine):
    """``load_weights`` copies; nothing else looks at the policy in training."""

    concurrent = True

    def load_weights(self, policy) -> None:
        copy = AutoModelForCausalLM.from_config(policy.policy_model.config)
        copy.generation_config = policy.policy_model.generation_config
        with torch.no_grad():
            own = dict(copy.named_parameters())
            for name, tensor in policy.named_tensors():
                if name in own:  # a tied head is there once
                    own[name].copy_(tensor)
        super().load_weights(LoadedModel(copy.eval(), policy.tokenizer))
