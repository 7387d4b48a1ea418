"""Process-group lifetime when vLLM engines share the trainer's process, and errors that all ranks raise together.

vLLM assumes that it owns its process: an engine that is closed destroys all process groups, including the trainer's and
those of other engines, and does so again when it is garbage-collected. Here vLLM's groups are destroyed with the last
engine, and the default group only if an engine created it.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from lit_tpgrpo.distributed import raise_failure_of_any_rank, rank, world_size
from lit_tpgrpo.errors import EngineError

_engines: list[Any] = []
_owns_default_group = False


def before_build() -> None:
    """Record whether the next engine creates the default process group. Call before an engine is built."""
    global _owns_default_group
    if not _engines:
        _owns_default_group = not torch.distributed.is_initialized()


@contextmanager
def launcher_environment(device: torch.device) -> Iterator[None]:
    """Set the variables that torchrun sets, by which vLLM joins the trainer's ranks; other launchers set different ones."""
    variables = {
        "RANK": str(rank()),
        "LOCAL_RANK": str(device.index if device.type == "cuda" else rank()),
        "WORLD_SIZE": str(world_size()),
    }
    with ExitStack() as stack:
        if not torch.distributed.is_initialized():
            port = stack.enter_context(reserved_port())
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        stack.enter_context(_environment(variables))
        yield


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def raise_if_any_failed(action: Callable[[], None]) -> None:
    """Run an action on all ranks; raise on all if it fails on one. Collective.

    Otherwise the healthy ranks would hang in their next collective.
    """
    failure = None
    try:
        action()
    except BaseException as error:  # also a signal that ends the run
        failure = error
    raise_on_every_rank(failure)


def raise_on_every_rank(failure: BaseException | None) -> None:
    """Raise on every rank if any rank failed: the rank's own exception, or an EngineError with the first message. Collective.

    Raises:
        EngineError: this rank did not fail, but another one did.
    """
    raise_failure_of_any_rank(failure, lambda _, kind, message: EngineError(message or kind))


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a TCP port that no other program gets while the context lasts; the one it is meant for can listen on it.

    A port that is free now can be another connection's once a server has started. Here a socket that does not listen stays
    bound to it, so that the system gives it to nobody who asks for any port. A listener needs SO_REUSEADDR, which servers set,
    stores and vLLM among them.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("", 0))
        yield int(reservation.getsockname()[1])


def register(engine: Any) -> None:
    """Register an engine after it was built: only ``shutdown`` shuts it down, not garbage collection."""
    engine.engine_core._finalizer.detach()
    _engines.append(engine)


def shutdown(engine: Any) -> None:
    """Shut an engine down. If it is the last one, destroy vLLM's process groups."""
    from vllm.distributed import parallel_state
    from vllm.v1.engine import core

    _engines[:] = [other for other in _engines if other is not engine]
    cleanup, core.cleanup_dist_env_and_memory = core.cleanup_dist_env_and_memory, lambda: None
    try:
        engine.engine_core.engine_core.shutdown()
    finally:
        core.cleanup_dist_env_and_memory = cleanup
    if not _engines:
        if _owns_default_group:
            parallel_state.cleanup_dist_env_and_memory()
        else:
            parallel_state.destroy_model_parallel()
