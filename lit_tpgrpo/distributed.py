"""What the processes of a run tell one another while they make rounds: each works on groups of its own."""

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
    """Every process's value (picklable, small), by rank. Collective."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    found: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found  # pyright: ignore[reportReturnType]


def gather_sum(value: A) -> A:
    """The processes' values added up, in the order of ranks. Collective."""
    return reduce(operator.add, gather(value))


def end_process_group() -> None:
    """Destroy the process group, if there is one, at the end of a run that went well.

    Lightning does so for NCCL alone. A thread of gloo's that still runs while Python ends aborts the process: a run that
    was complete would end with a failure (``terminate called without an active exception``).
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def raise_on_all_ranks(what: str) -> Iterator[None]:
    """Around work that each process does on its own, without a collective in it: fails on all if it fails on one.

    Otherwise those where it went well would wait for ever, in their next collective, for the one that is gone.

    Raises:
        OtherProcessError: it went well here and failed elsewhere.
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
            elsewhere = OtherProcessError(
                f"{what} failed on process {rank} ({failure}), and process {dist.get_rank()} stops with it; what was "
                "sampled and judged is stored. Mend the cause, then resume with --ckpt_path"
            )
            raise mark_raised_on_all(elsewhere)
