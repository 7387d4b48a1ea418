# pyright: reportMissingImports=false, reportPrivateImportUsage=false
"""What ``python -m lit_tpgrpo.serve`` adds to vLLM's workers: the gloo backend, and the check that every weight came.

vLLM's own backends finish an update that left weights out with a warning. Here each of them refuses it.
"""

from __future__ import annotations

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from lit_tpgrpo.engines.vllm import gloo
from lit_tpgrpo.engines.vllm.reload import incomplete_layers, refuse, repack_tied_heads


class CheckedNCCL(NCCLWeightTransferEngine):
    """vLLM's NCCL backend, with the check. An update that fails it leaves the server to be restarted."""

    def finish_weight_update(self) -> None:
        incomplete = incomplete_layers(self.model, self.model_config)
        super().finish_weight_update()
        repack_tied_heads(self.model)
        refuse(incomplete)


class CheckedIPC(IPCWeightTransferEngine):
    """vLLM's CUDA IPC backend, with the check."""

    def finish_weight_update(self) -> None:
        incomplete = incomplete_layers(self.model, self.model_config)
        super().finish_weight_update()
        repack_tied_heads(self.model)
        refuse(incomplete)


class Checked:
    """Named as ``--worker-extension-cls``, so that vLLM's workers import this module. It adds no method to them."""


WeightTransferEngineFactory._registry |= {
    "nccl": lambda: CheckedNCCL,
    "ipc": lambda: CheckedIPC,
    gloo.BACKEND: lambda: gloo.GlooWeightTransferEngine,
}
