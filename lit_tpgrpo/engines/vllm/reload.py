"""Reload of weights inside a vLLM worker, from checkpoint format; an incomplete update is an error.

It uses vLLM's layer-wise reload (``vllm.model_executor.model_loader.reload``): one layer at a time is loaded, processed and
copied into the storage that its kernels and CUDA graphs already use. vLLM itself only warns about missing weights; here
they raise, because the policy would be a mixture of old and new weights.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class WeightReload:
    """One weight update of a vLLM model: call ``load`` any number of times, then ``finish``.

    Args:
        model: the module of vLLM.
        model_config: its ``ModelConfig`` in vLLM.
    """

    def __init__(self, model: nn.Module, model_config: Any) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._model, self._config = model, model_config
        initialize_layerwise_reload(model)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load weights by their Hugging Face names. They may be views or gathered shards; each is read once."""
        with torch.no_grad():
            self._model.load_weights(weights)  # pyright: ignore[reportCallIssue]

    def finish(self) -> None:
        """Finalize the update and check that it is complete.

        Raises:
            RuntimeError: a layer did not get all of its weights.
        """
        incomplete = incomplete_layers(self._model, self._config)
        self.finalize()
        raise_if_incomplete(incomplete)

    def finalize(self) -> None:
        """Finalize the layers even if weights are missing, so that the model is consistent and can be updated again."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self._model, self._config)
        repack_tied_heads(self._model)


def incomplete_layers(model: nn.Module, model_config: Any) -> list[str]:
    """Return the layers that received fewer elements than they hold; call before the update is finalized.

    vLLM fuses weights (q, k and v; gate and up) and treats a fused one as loaded once a part of it was, so elements are
    counted, not names. Ignored: buffers, the padding of vocabularies, attention scales, and a head tied to the embedding.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info, is_deferred_attention_layer

    tied = bool(getattr(model_config.hf_text_config, "tie_word_embeddings", False))
    incomplete = []
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load() or is_deferred_attention_layer(layer):
            continue  # already processed because it was complete, or without weights
        expected = sum(p.numel() for p in layer._parameters.values() if p is not None)
        if isinstance(layer, VocabParallelEmbedding):
            embedding: Any = layer
            rows = embedding.num_embeddings_per_partition - embedding.shard_indices.num_org_elements
            expected -= rows * embedding.embedding_dim
        if info.load_numel < expected and not (tied and isinstance(layer, ParallelLMHead) and info.load_numel == 0):
            incomplete.append(f"{name} ({info.load_numel:,} of {expected:,} elements)")
    return incomplete


def raise_if_incomplete(incomplete: list[str]) -> None:
    """Raise if any layer is incomplete.

    Raises:
        RuntimeError: with the names of the first layers.
    """
    if incomplete:
        raise RuntimeError(
            f"{len(incomplete)} layers did not get all of their weights: {', '.join(incomplete[:5])}"
            f"{', ...' if len(incomplete) > 5 else ''}"
        )


def repack_tied_heads(model: nn.Module) -> None:
    """Repack the weight of a tied output head on a CPU.

    There the head multiplies with a packed copy of its weight. A head tied to the embedding is not reloaded itself, so the
    reload does not repack it, and it would keep using the old weight (vLLM 0.32).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            head: Any = module
            head.quant_method.process_weights_after_loading(module)
