"""Transfer of the policy's weights to rollout servers: all ranks all-gather, rank 0 sends."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch.distributed.tensor import DTensor

from lit_tpgrpo import distributed
from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.engines.vllm import process_groups
from lit_tpgrpo.engines.vllm.client import EventLoopThread, ServerLostError, ServerRefusedError
from lit_tpgrpo.engines.vllm.server_checks import check_adapters, check_server, served_model
from lit_tpgrpo.engines.vllm.servers import Server
from lit_tpgrpo.engines.vllm.weight_forms import WeightForm
from lit_tpgrpo.errors import EngineError

log = logging.getLogger(__name__)

Backend = Literal["nccl", "ipc", "gloo"]
BUCKET_MIB: dict[Backend, float] = {"gloo": 4, "nccl": 1024, "ipc": 1024}
"""Default size of buckets. gloo: measured, ``benchmarks/results/weight_sync.md``; the others: vLLM's own."""


@dataclass(frozen=True)
class TransferSettings:
    """How weights are transferred.

    Attributes:
        backend: what they are sent with.
        address: address of this machine that the servers can reach.
        timeout_s: seconds that an update waits for a server's current step (gloo only).
        bucket_bytes: most bytes of one message, which holds many tensors; a larger tensor has a message of its own.
        form: in which the weights are sent.
    """

    backend: Backend
    address: str
    timeout_s: float
    bucket_bytes: int
    form: WeightForm


class WeightSender:
    """Keeps a weight transfer open to each server, and opens a new one to a server that was restarted.

    Args:
        policy: returns the policy whose weights are sent.
        settings: how they are transferred.
        loop: event loop of the requests.
    """

    def __init__(self, policy: Callable[[], Policy], settings: TransferSettings, loop: EventLoopThread) -> None:
        self._policy = policy
        self._source: Any = None  # shared by all transfers: names and shapes are read once
        self._bases: dict[Server, str] = {}  # fingerprint of the weights that each has beneath the policy's adapter
        self._settings, self._loop = settings, loop
        self._transfers: dict[Server, Any] = {}
        self._sent: dict[Server, str] = {}  # the version last sent to each
        self._models: dict[Server, tuple[str, int]] = {}

    @property
    def can_send_alone(self) -> bool:
        """Whether this rank can send without the other ranks: it is rank 0 and its weights are unsharded."""
        unsharded = not any(isinstance(p, DTensor) for p in self._policy().policy_model.parameters())
        return distributed.rank() == 0 and (distributed.world_size() == 1 or unsharded)

    def prepare(self, server: Server) -> None:
        """Check a server and open a transfer to it if necessary. On rank 0 only, which sends the requests.

        Raises:
            ServerLostError, ServerRefusedError: see ``ServerClient``.
            EngineError: its settings do not fit training, or it serves another model than before.
        """
        if server in self._transfers and server.client.weight_version == self._sent.get(server):
            return
        check_server(server.client, self._settings.backend)
        if rank := self._settings.form.update(self._policy(), "").rank:
            check_adapters(server.client, rank)
        model = served_model(server.client)
        if model != (before := self._models.setdefault(server, model)):
            raise EngineError(
                f"the vLLM server {server.url} serves {model[0]} with {model[1]} positions, and before it was {before[0]} with "
                f"{before[1]}; restart it with the previous model"
            )
        self._sent.pop(server, None)
        self.drop(server)
        self._open(server)

    def update(self, server: Server, version: str) -> bool:
        """Send the weights to a server; return whether it has them now. Collective.

        If rank 0 cannot reach the server, no rank enters the all-gathers.

        Raises:
            EngineError: on all ranks: it is reachable and does not load them, or its settings never fitted training.
        """
        first = distributed.rank() == 0
        gone = self._reason_if_gone(server, lambda: self.prepare(server) if first else None, server.used_before)
        if gone is None:
            process_groups.raise_if_any_failed(lambda: self._abort_orphans(server))
            held = distributed.gather(self._bases.get(server, ""))[0]  # all ranks gather the same tensors
            gone = self._reason_if_gone(server, lambda: self.send(server, version, held), False)
        if gone is not None:
            server.exclude(gone)
            self.drop(server)
            return False
        if server.lost:
            log.warning("the vLLM server %s is back and is used again", server.url)
        server.readmit()
        return True

    def _reason_if_gone(self, server: Server, action: Callable[[], None], tolerant: bool) -> str | None:
        """Run an action; return why the server cannot be used, on all ranks, or None if the action succeeded on all.

        Args:
            server: the server that the action is about.
            action: run on every rank.
            tolerant: also return the reason if the server is reachable but refused. It was valid earlier in the run, so the
                run continues with the other servers.
        """
        failure, gone = None, None
        try:
            action()
        except Exception as error:
            failure = error
            if (tolerant and isinstance(error, EngineError)) or (distributed.rank() == 0 and is_gone(server, error)):
                gone = str(error)
        if (reason := distributed.gather(gone)[0]) is not None:
            return reason
        process_groups.raise_on_every_rank(failure)
        return None

    def _abort_orphans(self, server: Server) -> None:
        try:
            server.abort_orphans(self._loop)
        except EngineError as error:
            log.warning("%s", error)

    def send(self, server: Server, version: str, held: str | None = None) -> None:
        """Send one update. Collective if the weights are sharded: all ranks iterate over them.

        Args:
            server: where to.
            version: what the server calls its weights afterwards.
            held: fingerprint of the weights that it has beneath the adapter; None: as this rank remembers it.

        Raises:
            EngineError: the server did not load all of them.
        """
        if server not in self._transfers:
            self._open(server)
        transfer = self._transfers[server]
        held = self._bases.get(server, "") if held is None else held
        self._bases.pop(server, None)
        update = self._settings.form.update(self._policy(), held)
        transfer.client.version = version
        transfer.source.select(update)
        try:
            transfer.send_weights()
        except BaseException as error:
            if distributed.world_size() > 1:
                transfer.source.drain()
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            raise EngineError(
                f"the vLLM server {server.url} did not load the policy's weights ({version}): {error}"
            ) from error
        if distributed.rank() == 0:
            server.client.reset_prefix_cache()
            if (current := server.client.weight_version) != version:
                raise EngineError(
                    f"the vLLM server {server.url} holds weights of {current!r} after those of {version!r} were sent"
                )
        self._sent[server], self._bases[server] = version, update.base

    def drop(self, server: Server) -> None:
        """Close the transfer to a server that is gone or failed to load an update; it gets all weights the next time."""
        self._bases.pop(server, None)
        if (transfer := self._transfers.pop(server, None)) is not None:
            transfer.shutdown()

    def release(self, server: Server) -> None:
        """Close the server's side of the transfer, so that another run can use the server."""
        if server in self._transfers:
            server.client.ask("POST", "shutdown_weight_transfer_engine", server.client.cleanup_timeout_s)

    def _open(self, server: Server) -> None:
        from lit_tpgrpo.engines.vllm.transfer import PolicySource, open_transfer

        self._source = self._source or PolicySource()
        model = self._policy().policy_model
        self._transfers[server] = open_transfer(self._settings, server.client, self._source, distributed.rank(), model)


def is_gone(server: Server, error: BaseException) -> bool:
    """Return whether an update failed because the server is unreachable, rather than for a reason it reports."""
    if isinstance(error, ServerLostError):
        return True
    try:
        _ = server.client.weight_version
    except ServerLostError:
        return True
    except ServerRefusedError as refusal:
        return refusal.status >= 500  # its engine has stopped
    return False
