"""The trainer's side of a weight transfer to vLLM servers, through vLLM's own API."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import requests
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.engines.vllm.gloo import GlooTrainerInitInfo
from lit_tpgrpo.engines.vllm.tenancy import free_port
from lit_tpgrpo.errors import EngineError

log = logging.getLogger(__name__)

Backend = Literal["nccl", "ipc", "gloo"]


class PolicySource(WeightSource):
    """The policy's full tensors, name by name, gathered anew at each pass. Collective where they are sharded."""

    def __init__(self, policy: Callable[[], Policy]) -> None:
        self._policy = policy
        self._metadata: list[ParamMeta] | None = None
        self._pass: Iterator[tuple[str, Tensor]] | None = None

    def metadata(self) -> list[ParamMeta]:
        if self._metadata is None:  # names and shapes never change; the first look at them gathers once
            self._metadata = [ParamMeta(name, t.dtype, tuple(t.shape)) for name, t in self]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self._pass = iter(self._policy().named_tensors())
        yield from self._pass

    def expect(self) -> None:
        """A pass is about to begin."""
        self._pass = None

    def drain(self) -> None:
        """Finish the pass, from where it broke off or from its start: other ranks wait in its gathers."""
        for _ in self._pass if self._pass is not None else self._policy().named_tensors():
            pass


class Control(HTTPVLLMWeightSyncClient):
    """A server's control routes, with the server's own words when something fails.

    Every method raises ``EngineError`` where the server cannot be reached or refuses.
    """

    version = ""
    """What the next finished update is to be called."""

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        """One request; the JSON of the answer."""
        try:
            answer = requests.request(method, f"{self.base_url}/{path}", timeout=self.timeout, **arguments)
        except requests.RequestException as error:
            raise EngineError(f"the vLLM server {self.base_url} did not answer {path}: {error}") from error
        if answer.status_code == 404:
            raise EngineError(
                f"the vLLM server {self.base_url} has no route /{path}: start it with "
                "`python -m lit_tpgrpo.serve MODEL`, which opens the routes that training needs"
            )
        if not answer.ok:
            raise EngineError(
                f"the vLLM server {self.base_url} refused {path} ({answer.status_code}): {answer.text[:500]}"
            )
        return answer.json()

    def _post(self, path: str, json: dict[str, Any] | None = None) -> None:
        self.ask("POST", path, json=json)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        super().finish_weight_update(weight_version or self.version)

    @property
    def n_workers(self) -> int:
        return int(self.ask("GET", "get_world_size")["world_size"])

    @property
    def weight_version(self) -> str:
        return str(self.ask("GET", "weight_info")["weight_version"])

    def abort(self, request_id: str) -> None:
        """End a request that nobody waits for any more. A server that does not hear it is not worth another error."""
        try:
            requests.post(
                f"{self.base_url}/inference/v1/abort_requests",
                json={"request_ids": [f"generate-tokens-{request_id}"]},
                timeout=10,
            )
        except requests.RequestException as error:
            log.warning("the vLLM server %s did not take the end of a request: %s", self.base_url, error)

    def empty_prefix_cache(self) -> None:
        """Drop what was computed with the weights of before."""
        if not self.ask("POST", "reset_prefix_cache")["success"]:
            raise EngineError(
                f"the vLLM server {self.base_url} could not empty its prefix cache, for requests are still running on it: is "
                "another program using it?"
            )


def open_transfer(
    backend: Backend, client: Control, source: PolicySource, rank: int, address: str, timeout_s: float
) -> Any:
    """A ready transfer to one server; called on every rank of the trainer, of which rank 0 sends.

    Args:
        address: of this machine, as the server's machine reaches it.
    """
    workers = client.n_workers if rank == 0 else 0
    port = free_port() if rank == 0 else 0
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        info: Any = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=1 + workers, rank=rank)
    elif backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        info = IPCTrainerInitInfo(packed=True, rank=rank)
    else:
        info = GlooTrainerInitInfo(address, port, 1 + workers, timeout_s, rank=rank)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
