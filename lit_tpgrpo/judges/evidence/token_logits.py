"""ChosenTokenLogits: token rewards from another language model (Q-RM)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.engines.forced_scores import completion_states
from lit_tpgrpo.evidence import Evidence, TokenRewards
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools
from lit_tpgrpo.judges.evidence.token_scoring import TokenScoring, device_of, refuse_other_tokenizer
from lit_tpgrpo.pretrained import head_of, load_causal_lm, refuse_rescaled_logits
from lit_tpgrpo.records import Solution

COUNTERS = ("scored_solutions", "scored_solutions_reused", "scored_tokens")


@checked_arguments()
class ChosenTokenLogits(EvidenceProvider):
    """Score each token of a solution by its logit z_t(y_t) under another causal language model, which sees prompt and solution.

    Source: Q-RM (arXiv 2505.23363), whose text defines the reward of a token as the logit of the chosen token of a
    discriminative policy, trained on preference pairs. Its public code (homzer/Q-RM@74fd338b) has a scalar head in place of
    it, which is not here, and neither is the training. The model must have the policy's tokenizer: rewards belong to tokens.

    Values are stored batch by batch, under the fingerprint of the model's weights: a resumed run computes the missing ones.

    Args:
        model: Hugging Face folder or hub name, or an embedded model.
        dtype: of the weights; None keeps the checkpoint's.
        attention: attention implementation of transformers.
        device: ``auto`` is this process's GPU if it has one.
        tokens_per_batch: padded tokens of one forward pass.

    Raises:
        ConfigError: tokens_per_batch is not positive.
    """

    uses_engine: ClassVar = False

    def __init__(
        self,
        model: str,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        attention: str = "sdpa",
        device: str = "auto",
        tokens_per_batch: int = 8192,
    ) -> None:
        check_positive(tokens_per_batch=tokens_per_batch)
        self.model, self.dtype, self.attention, self.device = model, dtype, attention, device
        self.tokens_per_batch = tokens_per_batch
        self._loaded: PreTrainedModel | None = None
        self._weights = ""
        self._counts: Counter[str] = Counter()

    @property
    def gives(self) -> type[Evidence]:
        return TokenRewards

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the model's tokens are the policy's.

        Raises:
            ConfigError: they are not, or there is no such tokenizer.
        """
        refuse_other_tokenizer("ChosenTokenLogits", self.model, tokenizer)

    def metrics(self) -> dict[str, float]:
        """Return and reset the cost: solutions scored now, those shared or read from disk, tokens of forward passes."""
        counts = {name: float(self._counts[name]) for name in COUNTERS}
        self._counts.clear()
        return counts

    def close(self) -> None:
        """Free the model."""
        self._loaded = None

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        if not cases:
            return []
        model = self._ready()
        solutions = [case.judged.solution for case in cases]
        keys = [tools.key("chosen token logits", self._weights, s.prompt_ids, s.completion_ids) for s in solutions]
        scoring = TokenScoring(
            lambda batch: chosen_logits(model, batch),
            self.tokens_per_batch,
            f"ChosenTokenLogits: logits of {self.model!r}",
            self._counts,
        )
        return [TokenRewards(tuple(values)) for values in scoring(keys, solutions, tools)]

    def _ready(self) -> PreTrainedModel:
        if self._loaded is None:
            dtype = getattr(torch, self.dtype) if self.dtype else None
            model = load_causal_lm(self.model, False, dtype, self.attention)
            refuse_rescaled_logits(model, self.model)
            model.to(device_of(self.device))  # pyright: ignore[reportArgumentType]
            self._loaded = model.eval().requires_grad_(False)
            self._weights = fingerprint(model.named_parameters())
        return self._loaded


@torch.no_grad()
def chosen_logits(model: PreTrainedModel, solutions: Sequence[Solution]) -> list[Tensor]:
    """Compute the logit of each completion token, (L,) float32 on the CPU each, from one padded forward pass.

    Only the rows of the head that belong to these tokens are used: the (tokens, vocabulary) logits never exist.
    """
    with torch.autocast(model.device.type, enabled=False):
        rows = completion_states(model, [(s.prompt_ids, s.completion_ids) for s in solutions])
        weight, bias = head_of(model)
        logits = [(states.float() * weight[chosen].float()).sum(-1) for states, chosen in rows]
        if bias is not None:
            logits = [row + bias[chosen].float() for row, (_, chosen) in zip(logits, rows, strict=True)]
    return [row.cpu() for row in logits]
