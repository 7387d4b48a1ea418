"""Collectives used during rollouts, where each rank samples and judges its share of a round's groups."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any, Protocol, TypeVar

import torch.distributed as dist

from lit_tpgrpo.errors import OtherProcessError, mark_raised_on_all

T = TypeVar("T")


class _Adds(Protocol):
    def __add__(self, other: Any) -> Any: ...


A = TypeVar("A", bound=_Adds)


def gather(value: T) -> list[T]:
    """All-gather a small picklable value; return the values of all ranks, in the order of ranks. Collective."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType]


def gather_sum(value: A) -> A:
    """All-reduce a picklable value by ``+``, added in the order of ranks. Collective."""
    return reduce(operator.add, gather(value))


def end_process_group() -> None:
    """Destroy the process group, if there is one, at the end of a successful run.

    Lightning does so for NCCL only. A gloo thread that is still running when Python exits aborts the process: a complete
    run would exit with a failure (``terminate called without an active exception``).
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def raise_on_all_ranks(what: str) -> Iterator[None]:
    """Raise on all ranks if the block fails on one; the block itself contains no collective.

    Otherwise the healthy ranks would hang in their next collective.

    Args:
        what: the work of the block, as the subject of the error message.

    Raises:
        OtherProcessError: the block succeeded on this rank and failed on another.
    """
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
    failures = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise mark_raised_on_all(error)
    for rank, failure in enumerate(failures):
        if failure is not None:
            other = OtherProcessError(
                f"{what} failed on rank {rank} ({failure}), so rank {dist.get_rank()} stops too; what was sampled and "
                "judged is stored. Fix the cause, then resume with --ckpt_path"
            )
            raise mark_raised_on_all(other)
