"""Inside a vLLM worker: take over weights in checkpoint format, all of them or none without an error.

This is vLLM's own layer-wise reload (``vllm.model_executor.model_loader.reload``): one layer at a time is loaded,
processed and copied into the storage that its kernels and graphs already use. vLLM itself only warns about weights that
did not come; a policy that is half of yesterday is an error here.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Reload:
    """One update of a vLLM model: ``load`` in any number of pieces, then ``finish``.

    Args:
        model: vLLM's module.
        model_config: vLLM's ``ModelConfig`` of it.
    """

    def __init__(self, model: nn.Module, model_config: Any) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._model, self._config = model, model_config
        initialize_layerwise_reload(model)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Weights by their Hugging Face names. They may be views or gathered shards; each is read once."""
        with torch.no_grad():
            self._model.load_weights(weights)  # pyright: ignore[reportCallIssue]

    def finish(self) -> None:
        """Put the last layers in place.

        Raises:
            RuntimeError: a layer did not get all of its weights.
        """
        incomplete = incomplete_layers(self._model, self._config)
        self.abandon()
        refuse(incomplete)

    def abandon(self) -> None:
        """Make the model whole again as a structure, whatever weights it has, so that another update can begin."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self._model, self._config)
        repack_tied_heads(self._model)


def incomplete_layers(model: nn.Module, model_config: Any) -> list[str]:
    """Layers that got fewer elements than they hold, before the update is finalised.

    vLLM joins weights (q, k and v; gate and up) and calls the joined one loaded once a part of it came, so elements are
    counted, not names. Left out: buffers, the padding of vocabularies, attention scales, and a head tied to the embedding.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info, is_deferred_attention_layer

    tied = bool(getattr(model_config.hf_text_config, "tie_word_embeddings", False))
    found = []
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load() or is_deferred_attention_layer(layer):
            continue  # processed, for all of it has come; or without weights of its own
        own = sum(p.numel() for p in layer._parameters.values() if p is not None)
        if isinstance(layer, VocabParallelEmbedding):
            embedding: Any = layer
            rows = embedding.num_embeddings_per_partition - embedding.shard_indices.num_org_elements
            own -= rows * embedding.embedding_dim
        if info.load_numel < own and not (tied and isinstance(layer, ParallelLMHead) and info.load_numel == 0):
            found.append(f"{name} ({info.load_numel:,} of {own:,} elements)")
    return found


def refuse(incomplete: list[str]) -> None:
    """Raise ``RuntimeError`` where there are any."""
    if incomplete:
        raise RuntimeError(
            f"{len(incomplete)} layers did not get all of their weights: {', '.join(incomplete[:5])}"
            f"{', ...' if len(incomplete) > 5 else ''}"
        )


def repack_tied_heads(model: nn.Module) -> None:
    """On a CPU the output head multiplies with a packed copy of its weight. A head that shares the embedding's weight gets
    none of its own, so the reload does not pack it again, and it would go on with the old one (vLLM 0.32)."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            head: Any = module
            head.quant_method.process_weights_after_loading(module)


def reload_worker(worker: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """To be called on a worker by ``collective_rpc``: one whole update from an iterator in the same process."""
    from vllm.config import set_current_vllm_config

    worker = getattr(worker, "worker", worker)
    with set_current_vllm_config(worker.vllm_config):
        update = Reload(worker.model_runner.get_model(), worker.vllm_config.model_config)
        update.load(weights)
        update.finish()
