"""Keys and values of a prompt, computed once for all its samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lit_tpgrpo.engines.row_cache import RowCache


def prefill_distinct(
    model: PreTrainedModel,
    cache: RowCache,
    prompts: Sequence[Sequence[int]],
    ids: Tensor,
    mask: Tensor,
    config: GenerationConfig,
) -> None:
    """Fill an empty cache with all tokens of the prompts but the last; equal prompts are forwarded once and then copied.

    The last token is left to ``generate``, which needs its logits. Nothing is done where no prompt occurs twice, or where a
    layer of the model keeps a state of another kind than keys and values.

    Args:
        model: in evaluation mode.
        cache: of the model, empty.
        prompts: token ids of each row.
        ids: (rows, longest), the prompts padded on the left.
        mask: (rows, longest), 0 at padding.
        config: settings of ``generate`` that sample one token greedily; it is dropped.
    """
    places: dict[tuple[int, ...], int] = {}
    owner = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    if len(places) == len(prompts) or ids.shape[1] == 1 or not all(isinstance(x, DynamicLayer) for x in cache.layers):
        return
    first = torch.tensor([owner.index(place) for place in range(len(places))], device=ids.device)
    model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids[first, :-1],
        attention_mask=mask[first, :-1],
        generation_config=config,
        past_key_values=cache,
        synced_gpus=False,  # ranks have different prompts, and not all of them any that occur twice
    )
    cache.keep_rows(torch.tensor(owner, device=ids.device))
