"""An engine whose completions are given as texts."""

from __future__ import annotations

from lit_tpgrpo.engines.base import Completion
from lit_tpgrpo.records import StopReason


class Scripted:
    """Samples the given texts, one for each sample, of each prompt."""

    def __init__(self, tokenizer, texts: list[str]) -> None:
        self.tokenizer, self.texts = tokenizer, texts

    def sample(self, prompts, n, params, seeds):
        for i in range(len(prompts)):
            yield i, tuple(self._completion(text) for text in self.texts[:n])

    def _completion(self, text: str) -> Completion:
        ids = (*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id)
        return Completion(ids, (-0.5,) * len(ids), StopReason.EOS)

    def load_weights(self, policy) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...
