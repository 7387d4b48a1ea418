"""One update of a vLLM worker, of weights in checkpoint format, an adapter, or both; whatever way they arrive."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn

from lit_tpgrpo.engines.vllm.adapters import is_adapter, set_adapter
from lit_tpgrpo.engines.vllm.reload import WeightReload

_COMPLETE = "policy_weights_complete"  # attribute of vLLM's model: its weights are all of one update


class PolicyUpdate:
    """Call ``load_weights`` any number of times, then ``finish``.

    If weights arrive, all must: they replace those that the worker has. If an adapter alone arrives they stay. An update
    without an adapter takes the previous one away.

    Args:
        model: the module of vLLM.
        model_config: its ``ModelConfig`` in vLLM.
    """

    def __init__(self, model: nn.Module, model_config: Any) -> None:
        self._model, self._config = model, model_config
        self._reload: WeightReload | None = None
        self._adapter: dict[str, Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load weights and parts of an adapter; each is read once, and may be overwritten afterwards if it is an adapter's."""
        base = self._without_adapter(weights)
        first = next(base, None)
        if first is None:
            return
        if self._reload is None:  # it prepares all layers, so only when there are weights
            setattr(self._model, _COMPLETE, False)
            self._reload = WeightReload(self._model, self._config)
        self._reload.load(chain([first], base))

    def _without_adapter(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            if is_adapter(name):
                self._adapter[name] = tensor.detach().to("cpu", copy=True)
            else:
                yield name, tensor

    def finish(self) -> None:
        """Put the update into force and check that it is complete.

        Raises:
            RuntimeError: a layer did not get all of its weights, now or at the last update that brought any; or vLLM would
                leave out a part of the adapter.
        """
        if self._reload is not None:
            self._reload.finish()
            setattr(self._model, _COMPLETE, True)
        elif not getattr(self._model, _COMPLETE, False):
            raise RuntimeError("an adapter arrived alone, and the weights beneath it were not sent completely before")
        set_adapter(self._model, self._adapter)

    def abort(self) -> None:
        """Leave a consistent model after an error, which can be updated again."""
        if self._reload is not None:
            self._reload.finalize()


def update_worker(worker: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Run one update on a worker, from an iterator in the same process; called through ``collective_rpc``."""
    from vllm.config import set_current_vllm_config

    worker = getattr(worker, "worker", worker)
    with set_current_vllm_config(worker.vllm_config):
        update = PolicyUpdate(worker.model_runner.get_model(), worker.vllm_config.model_config)
        update.load_weights(tensors)
        update.finish()
