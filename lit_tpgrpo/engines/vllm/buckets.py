"""Buckets: many tensors in one message, laid out the same by sender and receiver from names, dtypes and shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes; a view needs offsets that its dtype divides


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a tensor that is sent."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Bucket:
    """Tensors of one message.

    Attributes:
        specs: the tensors, in order.
        offsets: where each begins, in bytes.
        n_bytes: size of the message.
    """

    specs: tuple[TensorSpec, ...]
    offsets: tuple[int, ...]
    n_bytes: int

    def views(self, message: Tensor) -> list[Tensor]:
        """Return the tensors as views of a message, (n_bytes,) uint8."""
        return [
            message[start : start + spec.n_bytes].view(spec.dtype).view(spec.shape)
            for spec, start in zip(self.specs, self.offsets, strict=True)
        ]


def cut_buckets(specs: Sequence[TensorSpec], limit: int) -> list[Bucket]:
    """Cut tensors into buckets of at most ``limit`` bytes, in order; a larger tensor has a bucket of its own."""
    buckets: list[Bucket] = []
    current: list[TensorSpec] = []
    offsets: list[int] = []
    end = 0
    for spec in specs:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        if current and start + spec.n_bytes > limit:
            buckets.append(Bucket(tuple(current), tuple(offsets), end))
            current, offsets, start = [], [], 0
        current.append(spec)
        offsets.append(start)
        end = start + spec.n_bytes
    return [*buckets, Bucket(tuple(current), tuple(offsets), end)] if current else buckets


def packed(pairs: Iterable[tuple[str, Tensor]], buckets: Sequence[Bucket]) -> Iterator[Tensor]:
    """Yield the message of each bucket, (n_bytes,) uint8 in host memory, for tensors in the order of the buckets.

    A message is valid until the next one is asked for: all are written to the same memory.

    Raises:
        ValueError: the tensors are not those of the buckets.
    """
    largest = max((b.n_bytes for b in buckets if len(b.specs) > 1), default=0)
    memory = torch.empty(largest, dtype=torch.uint8)
    stream = iter(pairs)
    for bucket in buckets:
        if len(bucket.specs) == 1:  # without a copy, if it is in host memory
            spec = bucket.specs[0]
            tensor = _next(stream, spec)
            yield tensor.to("cpu", spec.dtype).contiguous().reshape(-1).view(torch.uint8)
            continue
        message = memory[: bucket.n_bytes]
        for spec, view in zip(bucket.specs, bucket.views(message), strict=True):
            view.copy_(_next(stream, spec))
        yield message
    for name, _ in stream:
        raise ValueError(f"the weights hold {name}, which was not announced")


def _next(stream: Iterator[tuple[str, Tensor]], spec: TensorSpec) -> Tensor:
    name, tensor = next(stream, ("nothing", None))
    if tensor is None or name != spec.name or tuple(tensor.shape) != spec.shape:
        shape = "" if tensor is None else f" of shape {tuple(tensor.shape)}"
        raise ValueError(f"the weights hold {name}{shape} in place of {spec.name} of shape {spec.shape}")
    return tensor
