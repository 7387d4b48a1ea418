"""Engines that share a process with a trainer, and with one another: who made the process groups, and who ends them.

vLLM takes a process to be its own. A closing engine destroys all process groups, also the trainer's and those of another
engine, and it does so again when it is garbage-collected. Here the groups go with the last engine, the default one only if
no one else made it.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_living: list[Any] = []
_made_default_group = False


def arriving() -> None:
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


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def arrived(engine: Any) -> None:
    """After it: from here on only ``leave`` shuts it down."""
    engine.engine_core._finalizer.detach()
    _living.append(engine)


def leave(engine: Any) -> None:
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
