"""Structured output for transformers' ``generate``: only tokens that keep the text on the way to the JSON schema.

llguidance does the work, as it does in vLLM; it is imported when first used.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from lit_tpgrpo.errors import ConfigError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Without white space between the elements: a model that has nothing to say could go on with blanks for ever.
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


class SchemaConstraint(LogitsProcessor):
    """Sets the logits of all other tokens to minus infinity; a row that has closed its object can only end.

    Args:
        tokenizer: of the model, a fast one.
        schema: JSON schema as JSON text.
        eos_ids: the ids that end a completion.

    Raises:
        ConfigError: llguidance is not installed, cannot read the tokenizer, or cannot enforce the schema.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, schema: str, eos_ids: Sequence[int]) -> None:
        try:
            import llguidance
            import llguidance.torch as backend
        except ImportError as error:
            raise ConfigError(
                "structured output of a local model needs llguidance; install it with pip install llguidance"
            ) from error
        self._backend: Any = backend
        self._matcher = llguidance.LLMatcher
        try:
            self._grammar = self._matcher.grammar_from_json_schema(schema, defaults=_COMPACT)  # pyright: ignore
        except ValueError as error:
            raise ConfigError(f"the JSON schema cannot be enforced: {error}") from error
        self._tokenizer = tokenizer
        self._eos = list(eos_ids)
        self._rows: list[Any] = []
        self._mask: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._mask is None:
            guide = _guide(self._tokenizer, scores.shape[-1], tuple(self._eos))
            self._rows = [self._matcher(guide, self._grammar) for _ in range(len(scores))]
            self._mask = self._backend.allocate_token_bitmask(len(scores), scores.shape[-1])
            if self._rows[0].is_error():
                raise ConfigError(f"the JSON schema cannot be enforced: {self._rows[0].get_error()}")
        else:
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                if not row.is_stopped():
                    row.consume_token(token)
        for place, row in enumerate(self._rows):
            self._backend.fill_next_token_bitmask(row, self._mask, place)
        return scores.masked_fill(~_allowed(self._mask.to(scores.device), scores.shape[-1]), -torch.inf)


def _allowed(mask: Tensor, vocabulary: int) -> Tensor:
    """A bit mask (rows, words of 32 bits) as booleans (rows, vocabulary).

    llguidance has this too, behind ``torch.compile``: that takes half a minute and needs a C compiler.
    """
    bits = torch.arange(32, dtype=torch.int32, device=mask.device)
    return ((mask.unsqueeze(-1) >> bits) & 1).bool().flatten(1)[:, :vocabulary]


@lru_cache(maxsize=4)
def _guide(tokenizer: PreTrainedTokenizerBase, vocabulary: int, eos_ids: tuple[int, ...]) -> LLTokenizer:
    """The tokenizer's trie; made once, for a large vocabulary takes a second."""
    import llguidance.hf

    try:
        return llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(eos_ids))  # pyright: ignore
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"structured output needs a fast tokenizer that llguidance can read; {type(tokenizer).__name__} is none: {error}"
        ) from error
