"""Structured output for transformers' ``generate``: masks all tokens after which the text cannot satisfy a JSON schema.

Implemented by llguidance, as in vLLM; it is imported when first used.
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

# No white space between elements: a model could generate blanks without end.
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


class SchemaConstraint(LogitsProcessor):
    """Logits processor that sets all tokens the schema excludes to -inf; after the closed object only EOS is allowed.

    Args:
        tokenizer: fast tokenizer of the model.
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
        for index, row in enumerate(self._rows):
            self._backend.fill_next_token_bitmask(row, self._mask, index)
        return scores.masked_fill(~_allowed(self._mask.to(scores.device), scores.shape[-1]), -torch.inf)

    def keep_rows(self, rows: Tensor) -> None:
        """Drop the states of all other rows."""
        self._rows = [self._rows[row] for row in rows.tolist()]
        self._mask = self._mask[: len(self._rows)]


def _allowed(mask: Tensor, vocabulary: int) -> Tensor:
    """Unpack a bit mask (rows, 32-bit words) to booleans (rows, vocabulary).

    llguidance's own version uses ``torch.compile``, which takes half a minute and needs a C compiler.
    """
    bits = torch.arange(32, dtype=torch.int32, device=mask.device)
    return ((mask.unsqueeze(-1) >> bits) & 1).bool().flatten(1)[:, :vocabulary]


@lru_cache(maxsize=4)
def _guide(tokenizer: PreTrainedTokenizerBase, vocabulary: int, eos_ids: tuple[int, ...]) -> LLTokenizer:
    """Return the tokenizer's trie, cached: building it takes a second for a large vocabulary."""
    import llguidance.hf

    try:
        return llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(eos_ids))  # pyright: ignore
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"structured output needs a fast tokenizer that llguidance can read, got {type(tokenizer).__name__}: {error}"
        ) from error
