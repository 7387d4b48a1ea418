# pyright: reportMissingImports=false, reportPrivateImportUsage=false
"""Extension of vLLM's workers by ``python -m lit_tpgrpo.serve``: the gloo backend, and a check that updates are complete.

vLLM's own backends only warn if an update misses weights. Here each of them raises an error.
"""

from __future__ import annotations

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from lit_tpgrpo.engines.vllm import gloo
from lit_tpgrpo.engines.vllm.reload import incomplete_layers, raise_if_incomplete, repack_tied_heads


class CheckedNCCL(NCCLWeightTransferEngine):
    """vLLM's NCCL backend with the check. After an incomplete update the server must be restarted."""

    def finish_weight_update(self) -> None:
        incomplete = incomplete_layers(self.model, self.model_config)
        super().finish_weight_update()
        repack_tied_heads(self.model)
        raise_if_incomplete(incomplete)


class CheckedIPC(IPCWeightTransferEngine):
    """vLLM's CUDA IPC backend with the check."""

    def finish_weight_update(self) -> None:
        incomplete = incomplete_layers(self.model, self.model_config)
        super().finish_weight_update()
        repack_tied_heads(self.model)
        raise_if_incomplete(incomplete)


class Checked:
    """Class named by ``--worker-extension-cls``, so that vLLM's workers import this module. It adds no methods."""


WeightTransferEngineFactory._registry |= {
    "nccl": lambda: CheckedNCCL,
    "ipc": lambda: CheckedIPC,
    gloo.BACKEND: lambda: gloo.GlooWeightTransferEngine,
}
