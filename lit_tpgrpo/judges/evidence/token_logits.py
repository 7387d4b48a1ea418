"""ChosenTokenLogits: token rewards from another language model (Q-RM)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.engines.forced_scores import completion_states
from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.evidence import Evidence, TokenRewards
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.functional.token_budget import token_budget_slices
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools
from lit_tpgrpo.pretrained import head_of, load_causal_lm, load_tokenizer, refuse_rescaled_logits
from lit_tpgrpo.records import Solution

log = logging.getLogger(__name__)
VALUES: TypeAdapter[list[float]] = TypeAdapter(list[FiniteFloat])
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
        if load_tokenizer(self.model).get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"ChosenTokenLogits: {self.model!r} has another tokenizer than the policy, and rewards of tokens belong to the "
                "policy's; name a model with the same vocabulary"
            )

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
        unique = dict(zip(keys, solutions, strict=True))
        known = _readable(tools.stored(unique.keys()), unique)
        missing = [key for key in unique if key not in known]
        self._counts["scored_solutions_reused"] += len(cases) - len(missing)
        lengths = [_length(unique[key]) for key in missing]
        for rows in token_budget_slices(lengths, self.tokens_per_batch):
            batch = [missing[i] for i in rows]
            values = dict(zip(batch, chosen_logits(model, [unique[key] for key in batch]), strict=True))
            finite = {key: row.tolist() for key, row in values.items() if row.isfinite().all()}
            tools.store(finite)
            if len(finite) < len(values):
                raise NonFiniteLossError(
                    f"ChosenTokenLogits: logits of {self.model!r} are NaN or infinite in {len(values) - len(finite)} "
                    "solutions; the others are stored. Try dtype float32, then resume with --ckpt_path"
                )
            known |= finite
            self._counts["scored_solutions"] += len(batch)
            self._counts["scored_tokens"] += sum(lengths[i] for i in rows)
        return [TokenRewards(tuple(known[key])) for key in keys]

    def _ready(self) -> PreTrainedModel:
        if self._loaded is None:
            dtype = getattr(torch, self.dtype) if self.dtype else None
            model = load_causal_lm(self.model, False, dtype, self.attention)
            refuse_rescaled_logits(model, self.model)
            model.to(_device(self.device))  # pyright: ignore[reportArgumentType]
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


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _length(solution: Solution) -> int:
    return len(solution.prompt_ids) + len(solution.completion_ids)


def _readable(stored: Mapping[str, Any], solutions: Mapping[str, Solution]) -> dict[str, list[float]]:
    """Return the stored values; leave out what is something else, which is then computed again, with a warning."""
    read: dict[str, list[float]] = {}
    for key, plain in stored.items():
        try:
            values = VALUES.validate_python(plain)
        except ValidationError:
            continue
        if len(values) == len(solutions[key].completion_ids):
            read[key] = values
    if len(read) < len(stored):
        log.warning("%d stored rows of token rewards cannot be read; they are computed again", len(stored) - len(read))
    return read
