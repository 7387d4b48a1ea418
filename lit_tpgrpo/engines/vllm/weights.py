"""The policy's weights to rollout servers: all processes gather, the first one sends."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from torch.distributed.tensor import DTensor

from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.engines.vllm import process_groups
from lit_tpgrpo.engines.vllm.client import LoopThread, ServerClient, ServerLostError, ServerRefusedError
from lit_tpgrpo.engines.vllm.environment import EXTENSION
from lit_tpgrpo.engines.vllm.sampling import LOGPROBS_MODE
from lit_tpgrpo.engines.vllm.servers import Server
from lit_tpgrpo.errors import EngineError

log = logging.getLogger(__name__)

Backend = Literal["nccl", "ipc", "gloo"]


class WeightSender:
    """Keeps a transfer to each server, and opens it again for one that was restarted.

    Args:
        policy: the one whose weights are sent at this moment.
        backend: how they travel.
        address: of this machine, as the servers reach it.
        timeout_s: how long an update waits for a server's next step.
        loop: where requests run.
    """

    def __init__(
        self, policy: Callable[[], Policy], backend: Backend, address: str, timeout_s: float, loop: LoopThread
    ) -> None:
        self._policy = policy
        self._source: Any = None  # one for all transfers: names and shapes are looked up once
        self._backend: Backend = backend
        self._address, self._timeout_s, self._loop = address, timeout_s, loop
        self._transfers: dict[Server, Any] = {}
        self._sent: dict[Server, str] = {}  # the version that each was last given
        self._models: dict[Server, tuple[str, int]] = {}

    @property
    def alone(self) -> bool:
        """Whether this process can send without the others: it is the first, and has whole weights."""
        whole = not any(isinstance(p, DTensor) for p in self._policy().policy_model.parameters())
        return process_groups.rank() == 0 and (process_groups.world_size() == 1 or whole)

    def greet(self, server: Server) -> None:
        """Make a transfer to a server ready; on the first process, which talks to it.

        Raises:
            ServerLostError, ServerRefusedError: see ``ServerClient``.
            EngineError: it was started otherwise than training needs, or serves another model than before.
        """
        if server in self._transfers and server.client.weight_version == self._sent.get(server):
            return
        check_server(server.client, self._backend)
        model = served_model(server.client)
        if model != (before := self._models.setdefault(server, model)):
            raise EngineError(
                f"the vLLM server {server.url} serves {model[0]} with {model[1]} positions, and before it was {before[0]} with "
                f"{before[1]}; restart it with the model of before"
            )
        self._sent.pop(server, None)
        self.drop(server)
        self._open(server)

    def update(self, server: Server, version: str) -> bool:
        """Whether the server has the weights now. Collective: where the first process cannot send, no other waits in what it
        would gather.

        Raises:
            EngineError: it is there and does not take them, or was never as training needs it; on all processes.
        """
        first = process_groups.rank() == 0
        gone = self._unless_gone(server, lambda: self.greet(server) if first else None, server.known)
        if gone is None:
            process_groups.raise_if_any_failed(lambda: self._abort_orphans(server))
            gone = self._unless_gone(server, lambda: self.send(server, version), False)
        if gone is not None:
            server.leave_out(gone)
            self.drop(server)
            return False
        if server.lost:
            log.warning("the vLLM server %s is back and is used again", server.url)
        server.take_back()
        return True

    def _unless_gone(self, server: Server, action: Callable[[], None], tolerant: bool) -> str | None:
        """Why the server cannot be used, on all processes; None where the action went well on all.

        Args:
            tolerant: also of a server that is there and not as it should be. It was, so the run goes on with the others.
        """
        failure, gone = None, None
        try:
            action()
        except Exception as error:
            failure = error
            if (tolerant and isinstance(error, EngineError)) or (process_groups.rank() == 0 and is_gone(server, error)):
                gone = str(error)
        if (reason := process_groups.from_all(gone)[0]) is not None:
            return reason
        process_groups.raise_together(failure)
        return None

    def _abort_orphans(self, server: Server) -> None:
        try:
            server.abort_orphans(self._loop)
        except EngineError as error:
            log.warning("%s", error)

    def send(self, server: Server, version: str) -> None:
        """One update. Collective where the weights are sharded: all processes walk through them.

        Raises:
            EngineError: the server did not take all of them over.
        """
        if server not in self._transfers:
            self._open(server)
        transfer = self._transfers[server]
        transfer.client.version = version
        transfer.source.expect()
        try:
            transfer.send_weights()
        except BaseException as error:
            if process_groups.world_size() > 1:
                transfer.source.drain()
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            raise EngineError(
                f"the vLLM server {server.url} did not take over the policy's weights ({version}): {error}"
            ) from error
        if process_groups.rank() == 0:
            server.client.empty_prefix_cache()
            if (now := server.client.weight_version) != version:
                raise EngineError(
                    f"the vLLM server {server.url} holds weights of {now!r} after those of {version!r} were sent"
                )
        self._sent[server] = version

    def drop(self, server: Server) -> None:
        """Forget the transfer to a server that is gone or did not take an update over."""
        if (transfer := self._transfers.pop(server, None)) is not None:
            transfer.shutdown()

    def say_goodbye(self, server: Server) -> None:
        """Have the server end its side, so that another run may use it."""
        if server in self._transfers:
            server.client.ask("POST", "shutdown_weight_transfer_engine", server.client.courtesy_s)

    def _open(self, server: Server) -> None:
        from lit_tpgrpo.engines.vllm.transfer import PolicySource, open_transfer

        self._source = self._source or PolicySource(self._policy)
        self._transfers[server] = open_transfer(
            self._backend, server.client, self._source, process_groups.rank(), self._address, self._timeout_s
        )


def is_gone(server: Server, error: BaseException) -> bool:
    """Whether an update failed because the server is not there any more, rather than for a reason that it names."""
    if isinstance(error, ServerLostError):
        return True
    try:
        _ = server.client.weight_version
    except ServerLostError:
        return True
    except ServerRefusedError as refusal:
        return refusal.status >= 500  # its engine ended
    return False


def served_model(client: ServerClient) -> tuple[str, int]:
    """Name, and tokens of prompt and completion together."""
    model = client.field(client.ask("GET", "v1/models"), "data", 0)
    return str(client.field(model, "id")), int(client.field(model, "max_model_len"))


def check_server(client: ServerClient, backend: str) -> None:
    """Refuse a server that is open to everybody, whose log-probs mean something else, or that takes weights on another way."""
    client.check_guarded()
    config = client.field(client.ask("GET", "server_info", params={"config_format": "json"}), "vllm_config")
    mode = client.field(config, "model_config", "logprobs_mode")
    if mode != LOGPROBS_MODE:
        raise EngineError(
            f"the vLLM server {client.base_url} returns {mode}, which are of another distribution than the one sampled from "
            f"unless the temperature is 1; start it with `python -m lit_tpgrpo.serve`, or --logprobs-mode {LOGPROBS_MODE}"
        )
    if client.field(config, "parallel_config", "worker_extension_cls") != EXTENSION:
        raise EngineError(
            f"the vLLM server {client.base_url} would not notice a weight that does not come; start it with "
            f"`python -m lit_tpgrpo.serve`, or --worker-extension-cls {EXTENSION}"
        )
    offered = (config.get("weight_transfer_config") or {}).get("backend")
    if offered != backend:
        raise EngineError(
            f"the vLLM server {client.base_url} takes weights by {offered}, and the engine would send them by {backend}; "
            f"start it with `python -m lit_tpgrpo.serve MODEL --transfer {backend}`, or set the engine's transfer"
        )
