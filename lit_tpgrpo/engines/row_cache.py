"""A cache of keys and values from which rows can be taken, and which is not copied at every token."""

from __future__ import annotations

from inspect import signature
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

SPARE = 64
"""Columns by which the cache of a layer grows at once."""


class RowCache(DynamicCache):
    """transformers' cache with full-attention layers that grow by many columns at once.

    Args:
        config: of the model.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config=config.get_text_config(decoder=True))
        self.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]

    @classmethod
    def of(cls, model: PreTrainedModel) -> RowCache | None:
        """Return an empty cache for the model; None if its cache is of another kind (Mamba's)."""
        takes = "past_key_values" in signature(model.forward).parameters
        return cls(model.config) if takes and model._supports_default_dynamic_cache() else None  # pyright: ignore

    @property
    def is_croppable(self) -> bool:
        """False: on mps ``generate`` would otherwise sample one token too many and undo it, which logits processors cannot."""
        return False

    def keep_rows(self, rows: Tensor) -> None:
        """Keep the keys and values of these rows alone, in this order; a row that is named twice is copied."""
        self.reorder_cache(cast(torch.LongTensor, rows))


class GrowingLayer(DynamicLayer):
    """Keys and values of a layer, which are copied once in ``SPARE`` tokens.

    ``DynamicLayer`` copies all of them at every token; for the embedded policy that took half of the sampling time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append states (rows, heads, new, channels) and return all, as views of the buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < after:
            old_keys, old_values = cast(tuple[Tensor, Tensor], (self.keys, self.values))
            self._buffers = _enlarged(old_keys, key_states, before), _enlarged(old_values, value_states, before)
        keys, values = self._buffers
        keys[:, :, before:after] = key_states
        values[:, :, before:after] = value_states
        self.keys, self.values = keys[:, :, :after], values[:, :, :after]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._buffers = None

    def reset(self) -> None:
        super().reset()
        self._buffers = None


def _enlarged(old: Tensor, new: Tensor, columns: int) -> Tensor:
    """Return a buffer for ``columns`` of old states, the new ones and ``SPARE - 1`` more, with the old states in it."""
    rows, heads, added, channels = new.shape
    buffer = new.new_empty(rows, heads, columns + added + SPARE - 1, channels)
    if columns:
        buffer[:, :, :columns] = old
    return buffer
