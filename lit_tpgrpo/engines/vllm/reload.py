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
        self._wanted = {name for name, _ in model.named_parameters()}
        self._loaded: set[str] = set()
        initialize_layerwise_reload(model)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Weights by their Hugging Face names. They may be views or gathered shards; each is read once."""
        with torch.no_grad():
            self._loaded |= set(self._model.load_weights(weights))  # pyright: ignore[reportCallIssue]

    def finish(self) -> int:
        """Put the last layers in place; returns how many of vLLM's parameters were written.

        Raises:
            RuntimeError: a parameter of the model got no weight.
        """
        self.abandon()
        missing = sorted(self._wanted - self._loaded)
        if missing:
            raise RuntimeError(
                f"{len(missing)} of {len(self._wanted)} parameters got no weight: {', '.join(missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}"
            )
        return len(self._loaded)

    def abandon(self) -> None:
        """Make the model whole again as a structure, whatever weights it has, so that another update can begin."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self._model, self._config)
        _repack_tied_heads(self._model)


def _repack_tied_heads(model: nn.Module) -> None:
    """On a CPU the output head multiplies with a packed copy of its weight. A head that shares the embedding's weight gets
    none of its own, so the reload does not pack it again, and it would go on with the old one (vLLM 0.32)."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def reload_worker(worker: Any, weights: Iterable[tuple[str, Tensor]]) -> int:
    """To be called on a worker by ``collective_rpc``: one whole update from an iterator in the same process."""
    from vllm.config import set_current_vllm_config

    worker = getattr(worker, "worker", worker)
    with set_current_vllm_config(worker.vllm_config):
        update = Reload(worker.model_runner.get_model(), worker.vllm_config.model_config)
        update.load(weights)
        return update.finish()
