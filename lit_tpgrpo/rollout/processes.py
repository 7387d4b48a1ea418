"""What the processes of a run tell one another while they make rounds: each works on groups of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from lit_tpgrpo.errors import OtherProcessError

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Every process's value (picklable, small), by rank. Collective."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    found: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found  # pyright: ignore[reportReturnType]


@contextmanager
def failing_together(what: str) -> Iterator[None]:
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
        error.on_all_processes = True  # pyright: ignore[reportAttributeAccessIssue]
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            elsewhere = OtherProcessError(
                f"{what} failed on process {rank} ({failure}), and process {dist.get_rank()} stops with it; what was "
                "sampled and judged is stored. Mend the cause, then resume with --ckpt_path"
            )
            elsewhere.on_all_processes = True  # pyright: ignore[reportAttributeAccessIssue]
            raise elsewhere
