"""An engine: ``--data.engine examples.parts.engine.PlainEngine``."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lit_tpgrpo import Completion, Engine, Policy, SamplingParams, StopReason


class PlainEngine(Engine):
    """Engine that samples from the policy's weights token by token, without a cache: short, but slow."""

    def load_weights(self, policy: Policy) -> None:
        """Use the policy's current weights; an engine with a copy of them updates the copy here."""
        self._policy = policy

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Yield (index of the prompt, its n completions); sample k depends only on the prompt's seed and k."""
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            yield index, tuple(self._complete(list(prompt), params, seed + k) for k in range(n))

    @torch.inference_mode()
    def _complete(self, prompt: list[int], params: SamplingParams, seed: int) -> Completion:
        model, eos = self._policy.policy_model, self._policy.tokenizer.eos_token_id
        generator = torch.Generator(model.device).manual_seed(seed)
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < params.max_new_tokens and eos not in ids[-1:]:
            logits = model(torch.tensor([prompt + ids], device=model.device)).logits[0, -1].float()
            scores = (logits / (params.temperature or 1.0)).log_softmax(-1)
            drawn = scores.exp().multinomial(1, generator=generator) if params.temperature else scores.argmax()[None]
            ids.append(int(drawn))
            logprobs.append(float(scores[drawn]))
        stop = StopReason.EOS if eos in ids[-1:] else StopReason.LENGTH
        return Completion(np.array(ids), np.array(logprobs), stop)
