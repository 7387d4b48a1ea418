# pyright: reportMissingImports=false, reportPrivateImportUsage=false
"""Extension of vLLM's workers by ``python -m lit_tpgrpo.serve``: the gloo backend, adapters, checks of completeness.

vLLM's own backends only warn if an update misses weights. Here each of them raises an error.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from lit_tpgrpo.engines.vllm import gloo
from lit_tpgrpo.engines.vllm.updates import PolicyUpdate


class CheckedUpdates:
    """Mixin of vLLM's backends, which call ``load_weights`` of their model: a ``PolicyUpdate`` takes its place meanwhile."""

    model: Any
    model_config: Any
    _update: PolicyUpdate

    def start_weight_update(self) -> None:
        self._update = PolicyUpdate(self.model, self.model_config)

    def receive_weights(self, update_info: Any) -> None:
        model, self.model = self.model, self._update
        try:
            super().receive_weights(update_info)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            self.model = model

    def finish_weight_update(self) -> None:
        try:
            self._update.finish()
        finally:  # a backend may have buffers to release; all layers are finalized already
            super().finish_weight_update()  # pyright: ignore[reportAttributeAccessIssue]


class CheckedNCCL(CheckedUpdates, NCCLWeightTransferEngine):
    """vLLM's NCCL backend with the check. After an incomplete update the server must be restarted."""


class CheckedIPC(CheckedUpdates, IPCWeightTransferEngine):
    """vLLM's CUDA IPC backend with the check."""


class Checked:
    """Class named by ``--worker-extension-cls``, so that vLLM's workers import this module. It adds no methods."""


WeightTransferEngineFactory._registry |= {
    "nccl": lambda: CheckedNCCL,
    "ipc": lambda: CheckedIPC,
    gloo.BACKEND: lambda: gloo.GlooWeightTransferEngine,
}
