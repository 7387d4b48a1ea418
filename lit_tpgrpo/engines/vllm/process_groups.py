"""Engines that share a process with a trainer, and with one another: who made the process groups, and who ends them.

vLLM takes a process to be its own. A closing engine destroys all process groups, also the trainer's and those of another
engine, and it does so again when it is garbage-collected. Here the groups go with the last engine, the default one only if
no one else made it.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from lit_tpgrpo.errors import EngineError, mark_raised_on_all

T = TypeVar("T")

_living: list[Any] = []
_made_default_group = False


def before_build() -> None:
    """Before an engine is built."""
    global _made_default_group
    if not _living:
        _made_default_group = not torch.distributed.is_initialized()


@contextmanager
def as_launched(device: torch.device) -> Iterator[None]:
    """vLLM joins the trainer's processes as torchrun's children do, by variables that other launchers set otherwise."""
    given = {
        "RANK": str(rank()),
        "LOCAL_RANK": str(device.index if device.type == "cuda" else rank()),
        "WORLD_SIZE": str(world_size()),
    }
    if not torch.distributed.is_initialized():
        given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def rank() -> int:
    """Of this process among those that train together."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """Processes that train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def from_all(value: T) -> list[T]:
    """Every process's value (picklable, small), by rank. Collective."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def raise_if_any_failed(action: Callable[[], None]) -> None:
    """Do it on all ranks; raise on all where it fails on one, so that none waits in a collective for one that is gone."""
    failure = None
    try:
        action()
    except BaseException as error:  # also a signal that ends the run
        failure = error
    raise_together(failure)


def raise_together(failure: BaseException | None) -> None:
    """Raise on every rank what went wrong on any. Collective.

    Raises:
        EngineError: it went well here and failed elsewhere.
    """
    told = from_all(None if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise mark_raised_on_all(failure)
    if (first := next((words for words in told if words is not None), None)) is not None:
        raise mark_raised_on_all(EngineError(first))


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def register(engine: Any) -> None:
    """After it: from here on only ``leave`` shuts it down."""
    engine.engine_core._finalizer.detach()
    _living.append(engine)


def shutdown(engine: Any) -> None:
    """Shut an engine down. The last one takes vLLM's process groups with it."""
    from vllm.distributed import parallel_state
    from vllm.v1.engine import core

    _living[:] = [other for other in _living if other is not engine]
    everything, core.cleanup_dist_env_and_memory = core.cleanup_dist_env_and_memory, lambda: None
    try:
        engine.engine_core.engine_core.shutdown()
    finally:
        core.cleanup_dist_env_and_memory = everything
    if not _living:
        if _made_default_group:
            parallel_state.cleanup_dist_env_and_memory()
        else:
            parallel_state.destroy_model_parallel()
