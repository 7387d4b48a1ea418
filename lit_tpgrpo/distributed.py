"""Collectives of small Python values between the ranks, and errors that all ranks raise together."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any, Protocol, TypeVar

import torch.distributed as dist

from lit_tpgrpo.errors import OtherProcessError, mark_raised_on_all

T = TypeVar("T")


class _Adds(Protocol):
    def __add__(self, other: Any) -> Any: ...


A = TypeVar("A", bound=_Adds)


def rank() -> int:
    """Return the rank of this process; 0 without distributed training."""
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    """Return the number of training processes; 1 without distributed training."""
    return dist.get_world_size() if _is_distributed() else 1


def gather(value: T) -> list[T]:
    """All-gather a small picklable value; return the values of all ranks, in the order of ranks. Collective."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
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
    if _is_distributed():
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
    raise_failure_of_any_rank(
        error,
        lambda failed, kind, message: OtherProcessError(
            f"{what} failed on rank {failed} ({kind}: {message}), so rank {rank()} stops too; what was sampled and "
            "judged is stored. Fix the cause, then resume with --ckpt_path"
        ),
    )


def raise_failure_of_any_rank(error: BaseException | None, elsewhere: Callable[[int, str, str], BaseException]) -> None:
    """Raise on all ranks if one failed; all of them mark the error as such. Collective.

    Args:
        error: of this rank, None if it succeeded; raised as it is.
        elsewhere: returns what a rank without an error raises, given the first rank that failed, its error's type and message.
    """
    failures = gather(None if error is None else (type(error).__name__, str(error)))
    if error is not None:
        raise mark_raised_on_all(error)
    for failed, failure in enumerate(failures):
        if failure is not None:
            raise mark_raised_on_all(elsewhere(failed, *failure))


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
