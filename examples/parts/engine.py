"""An engine: ``--data.engine examples.parts.engine.PlainEngine``."""

from collections.abc import Iterator, Sequence

import torch

from lit_tpgrpo.engines.base import Completion, Policy, SamplingParams
from lit_tpgrpo.records import StopReason


class PlainEngine:
    """Sample from the policy's own weights token by token, without a cache: short to read and slow."""

    def load_weights(self, policy: Policy) -> None:
        """Take the policy's weights of this moment; an engine with a copy of them updates it here."""
        self._policy = policy

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Yield (index of the prompt, its n completions); sample k depends on the prompt's seed and k alone."""
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
        return Completion(tuple(ids), tuple(logprobs), StopReason.EOS if eos in ids[-1:] else StopReason.LENGTH)

    def sleep(self) -> None:
        """Free what the trainer needs: nothing is held here."""

    def wake(self) -> None:
        """Take it back before sampling."""

    def close(self) -> None:
        """Free everything at the end of the run."""
