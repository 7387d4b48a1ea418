"""The trainer's side of a weight transfer to vLLM servers, through vLLM's own API."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from lit_tpgrpo.engines.vllm.client import ServerClient
from lit_tpgrpo.engines.vllm.gloo import GlooTrainerInitInfo
from lit_tpgrpo.engines.vllm.process_groups import reserved_port
from lit_tpgrpo.engines.vllm.weight_forms import WeightUpdate
from lit_tpgrpo.engines.vllm.weights import TransferSettings


class PolicySource(WeightSource):
    """The tensors of one update after another, all-gathered again at each pass. Collective if they are sharded."""

    def __init__(self) -> None:
        self._metadata: dict[str, list[ParamMeta]] = {}
        self._tensors: Callable[[], Iterable[tuple[str, Tensor]]] = tuple
        self._key = ""
        self._pass: Iterator[tuple[str, Tensor]] | None = None

    def select(self, update: WeightUpdate) -> None:
        """Yield the tensors of this update from now on."""
        self._key, self._tensors, self._pass = update.key, update.tensors, None

    def metadata(self) -> list[ParamMeta]:
        if self._key not in self._metadata:  # those of a key never change; reading them takes one pass
            self._metadata[self._key] = [ParamMeta(name, t.dtype, tuple(t.shape)) for name, t in self]
        return self._metadata[self._key]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self._pass = iter(self._tensors())
        yield from self._pass

    def drain(self) -> None:
        """Run the current pass to its end, or a full pass if none has begun: other ranks wait in its all-gathers."""
        for _ in self._pass if self._pass is not None else self._tensors():
            pass


class WeightControl(HTTPVLLMWeightSyncClient):
    """vLLM's client of the weight-transfer routes, over ``ServerClient``: sends the key, and errors quote the server."""

    version = ""
    """The weight version that the next finished update gets."""

    def __init__(self, client: ServerClient) -> None:
        super().__init__(client.base_url)
        self._client = client

    def _post(self, path: str, json: dict[str, Any] | None = None) -> None:
        self._client.ask("POST", path, json=json)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        super().finish_weight_update(weight_version or self.version)


def open_transfer(
    settings: TransferSettings, client: ServerClient, source: PolicySource, rank: int, model: nn.Module
) -> Any:
    """Open a transfer to one server. Called on every rank of the trainer; rank 0 sends.

    Args:
        settings: how the weights are transferred.
        client: client of the server.
        source: the policy's weights.
        rank: rank of this process.
        model: the policy's.
    """
    workers = client.n_workers if rank == 0 else 0
    with reserved_port() if rank == 0 else nullcontext(0) as port:
        info = _init_info(settings, port, 1 + workers, rank, model)
        return WeightTransferTrainerFactory.trainer_init(info, client=WeightControl(client), source=source)


def _init_info(settings: TransferSettings, port: int, world_size: int, rank: int, model: nn.Module) -> Any:
    address, size = settings.address, settings.bucket_bytes
    if settings.backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(
            master_address=address, master_port=port, world_size=world_size, rank=rank, packed_buffer_size_bytes=size
        )
    if settings.backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        # Its one buffer must hold the largest tensor.
        return IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=max(size, largest_tensor(model)), rank=rank)
    return GlooTrainerInitInfo(address, port, world_size, settings.timeout_s, size, rank=rank)


def largest_tensor(model: nn.Module) -> int:
    """Return the most bytes of a tensor that is sent, at least; no collective, though weights may be sharded.

    Merged ones are float32; two weights of 4 bits are one element of their storage.
    """
    return max(
        (p.numel() * (max(4, p.itemsize) if p.is_floating_point() else 8) for p in model.parameters()), default=0
    )
