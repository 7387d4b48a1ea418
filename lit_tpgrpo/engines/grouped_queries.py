"""Attention on CPUs whose query heads share key heads, without a copy of the keys and values for each query head.

transformers copies them in every layer and at every token once there is an attention mask, and batched sampling pads on the
left: for the embedded policy the copies took half of the sampling time. The CPU kernel of torch needs none and gives the same
bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grouped_queries"
"""Name of the attention implementation in transformers' registry."""


def grouped_query_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention as transformers' ``sdpa`` does.

    Args:
        module: the attention layer.
        query: (batch, query heads, queries, channels).
        key: (batch, key heads, keys, channels).
        value: as ``key``.
        attention_mask: (batch, 1, queries, keys), or None.
        dropout: probability; 0 in evaluation mode.
        scaling: factor of the scores.
        kwargs: what transformers passes on besides.

    Returns:
        (batch, queries, query heads, channels), and None for the weights.
    """
    if attention_mask is None or key.shape[1] == query.shape[1] or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, grouped_query_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def shared_key_heads(model: PreTrainedModel) -> Iterator[None]:
    """Use it in a model on a CPU that has transformers' ``sdpa`` attention; other models stay as they are."""
    before = model.config._attn_implementation
    if before != "sdpa" or model.device.type != "cpu":
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
