"""A weight-transfer backend over gloo for vLLM servers without GPUs, modelled on vLLM's NCCL backend; it sends buckets.

vLLM's weight-transfer API provides the roles, the HTTP routes and the registry; its NCCL and CUDA IPC backends need GPUs.
Importing this module registers ``gloo`` on the trainer's side; ``extension`` registers it in the workers.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from lit_tpgrpo.engines.vllm.buckets import Bucket, TensorSpec, cut_buckets, packed
from lit_tpgrpo.engines.vllm.updates import PolicyUpdate

BACKEND = "gloo"
DEFAULT_BUCKET_BYTES = 4 * 2**20


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """Address at which the trainer's rank 0 waits for the server's workers, and the number of all participants."""

    backend: ClassVar[str] = BACKEND

    master_address: str
    master_port: int
    world_size: int
    timeout_s: float = 600.0
    bucket_bytes: int = DEFAULT_BUCKET_BYTES


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """The same values as ``GlooTrainerInitInfo``, as they are sent to a worker."""

    master_address: str
    master_port: int
    world_size: int
    timeout_s: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """Names, dtypes and shapes of the tensors that are broadcast next, in order, and the most bytes of a message."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    bucket_bytes: int

    def buckets(self) -> list[Bucket]:
        """Return how the tensors share messages, on both sides."""
        columns = zip(self.names, self.dtype_names, self.shapes, strict=True)
        specs = [TensorSpec(name, getattr(torch, dtype), tuple(shape)) for name, dtype, shape in columns]
        return cut_buckets(specs, self.bucket_bytes)


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The worker's side: receives one broadcast per bucket and passes its tensors on to the update."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    _group: Any = None
    _update: PolicyUpdate | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        config = self.parallel_config
        rank = 1 + config.data_parallel_index * config.world_size + config.rank
        self._group = join(init_info, rank)

    def start_weight_update(self) -> None:
        self._update = PolicyUpdate(self.model, self.model_config)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # no accelerator to synchronize with

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        if self._update is None:
            raise RuntimeError("update_weights was called before start_weight_update")
        update, self._update = self._update, None
        # Finished here, where vLLM closes the update after an error; after one in finish_weight_update it stays open forever.
        try:
            update.load_weights(receive(self._group, update_info))
        except BaseException:
            update.abort()
            raise
        update.finish()

    def finish_weight_update(self) -> None:
        """Do nothing: ``receive_weights`` receives all weights in one call and finishes the update."""

    def shutdown(self) -> None:
        self._group = None


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The trainer's side. All ranks iterate over the source, whose all-gathers are collective; rank 0 broadcasts."""

    init_info_cls = GlooTrainerInitInfo
    bucket_bytes = DEFAULT_BUCKET_BYTES
    """Most bytes of a message, unless one tensor has more."""
    _group: Any = None

    @classmethod
    def trainer_init(cls, init_info: GlooTrainerInitInfo, *, client: Any, source: Any = None) -> Any:
        if source is None:
            raise ValueError("the gloo weight transfer needs a WeightSource")
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        engine.bucket_bytes = init_info.bucket_bytes
        if engine.is_sender:
            info = GlooInitInfo(
                init_info.master_address, init_info.master_port, init_info.world_size, init_info.timeout_s
            )
            with ThreadPoolExecutor(max_workers=1) as pool:  # both sides wait for each other
                joined = pool.submit(client.init_weight_transfer_engine, asdict(info))
                engine._group = join(init_info, 0)
                joined.result()
        return engine

    def send_weights(self) -> None:
        assert self.source is not None
        meta = self.source.metadata()
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        info = GlooUpdateInfo(
            [m.name for m in meta],
            [str(m.dtype).removeprefix("torch.") for m in meta],
            [list(m.shape) for m in meta],
            self.bucket_bytes,
        )
        self.client.start_weight_update()
        pool = ThreadPoolExecutor(max_workers=1)
        try:
            received = pool.submit(self.client.update_weights, asdict(info))
            try:
                broadcast(self._group, self.source, info)
            except RuntimeError:
                if received.done():
                    received.result()  # raises the server's error, which explains why the broadcast failed
                raise
            received.result()
        finally:
            pool.shutdown(wait=False)
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        self._group = None


def broadcast(group: Any, pairs: Iterable[tuple[str, Tensor]], info: GlooUpdateInfo) -> None:
    """Send tensors from rank 0 of a gloo group, a bucket a message.

    Raises:
        ValueError: they are not the announced ones.
        RuntimeError: the group is broken.
    """
    for message in packed(pairs, info.buckets()):
        if message.numel():
            group.broadcast(message, 0).wait()


def receive(group: Any, info: GlooUpdateInfo) -> Iterator[tuple[str, Tensor]]:
    """Yield what ``broadcast`` sends. Tensors are views of their bucket's memory, which is never written to again."""
    for bucket in info.buckets():
        # New memory for each: the reload keeps the views of a layer until it is complete.
        message = torch.empty(bucket.n_bytes, dtype=torch.uint8)
        if bucket.n_bytes:
            group.broadcast(message, 0).wait()
        for spec, tensor in zip(bucket.specs, bucket.views(message), strict=True):
            yield spec.name, tensor


def join(info: GlooTrainerInitInfo | GlooInitInfo, rank: int) -> Any:
    """Open the group, in which the trainer has rank 0; waits for the others."""
    return stateless_init_torch_distributed_process_group(
        info.master_address, info.master_port, rank, info.world_size, "gloo", timeout=timedelta(seconds=info.timeout_s)
    )


if BACKEND not in WeightTransferTrainerFactory._registry:
    WeightTransferTrainerFactory.register_engine(BACKEND, GlooTrainerWeightTransferEngine)
