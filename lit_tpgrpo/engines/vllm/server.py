"""vLLM behind addresses: rollouts by servers of their own, on this machine or others."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import itertools
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import torch

from lit_tpgrpo.api_keys import check_key_env
from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.base import Completion, Policy, SamplingParams
from lit_tpgrpo.engines.checks import check_lengths, stop_ids
from lit_tpgrpo.engines.vllm import tenancy
from lit_tpgrpo.engines.vllm.client import LoopThread, ServerClient, checked_address, key_from
from lit_tpgrpo.engines.vllm.environment import EXTENSION, import_vllm
from lit_tpgrpo.engines.vllm.guard import KEY_ENV
from lit_tpgrpo.engines.vllm.sampling import LOGPROBS_MODE, completion, repeated, request_settings
from lit_tpgrpo.errors import ConfigError, EngineError

log = logging.getLogger(__name__)


@checked_arguments()
class VLLMServer:
    """Samples from vLLM servers and sends them the policy's weights through vLLM's weight-transfer API.

    Start each with ``python -m lit_tpgrpo.serve MODEL`` and the same key in its environment. Prompts are dealt out over the
    servers, the n samples of a prompt to one of them. Every sample says which weights made it; one of other weights than were
    sent is an error.

    Args:
        urls: one address or several, e.g. ``http://127.0.0.1:8000``.
        transfer: how weights travel: ``nccl`` between GPUs, ``ipc`` between processes on one GPU, ``gloo`` between CPUs;
            ``auto`` is nccl where the policy is on a GPU, else gloo. The servers must have been started with the same.
        trainer_address: of this machine (of rank 0), as the servers reach it.
        api_key_env: name of the environment variable with the servers' key: VLLM_API_KEY, OPENAI_API_KEY, or one that the
            person who runs this allows (see ``lit_tpgrpo.api_keys``).
        concurrency: prompts of this rank in flight at once, over all servers.
        timeout_s: of one prompt's n samples, and of an update's requests.
        transfer_timeout_s: how long an update waits for a server's next step (gloo only).
    """

    collective = True  # load_weights is: no part may call it that only some ranks have work for
    mismatched = True  # see ``Engine`` in lit_tpgrpo.engines.base

    def __init__(
        self,
        urls: str | list[str],
        transfer: Literal["auto", "nccl", "ipc", "gloo"] = "auto",
        trainer_address: str = "127.0.0.1",
        api_key_env: str = KEY_ENV,
        concurrency: int = 256,
        timeout_s: float = 3600.0,
        transfer_timeout_s: float = 600.0,
    ) -> None:
        self.urls = [checked_address(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if not self.urls or concurrency < 1:
            raise ConfigError(
                f"VLLMServer needs an address and a concurrency of at least 1, got {urls!r}, {concurrency}"
            )
        for url in self.urls:
            check_key_env(api_key_env, urlsplit(url).hostname or "", "VLLMServer")
        self.transfer: Literal["auto", "nccl", "ipc", "gloo"] = transfer
        self.trainer_address = trainer_address
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.transfer_timeout_s = transfer_timeout_s
        self._policy: Policy | None = None
        self._clients: list[ServerClient] = []
        self._loop: LoopThread | None = None
        self._transfers: list[Any] = []
        self._limit: int | None = None
        self._version = ""
        self._updates = 0

    # ---- weights ----

    def load_weights(self, policy: Policy) -> None:
        """Send the policy's current weights to all servers. Collective: every rank calls it, rank 0 sends.

        Raises:
            EngineError: a server cannot be reached, was started otherwise than training needs, or did not take all of the
                weights over. No rank samples then.
        """
        if tenancy.world_size() > 1:
            torch.distributed.barrier()  # another rank may still be sampling with the weights of before
        self._policy, self._version = policy, ""
        self._updates += 1
        version = f"step {policy.policy_version}, update {self._updates}"
        try:
            # Agreed on in between: where rank 0 cannot send, the others must not wait in the gathers of what it would send.
            _agree(self._failure(lambda: self._connect(policy), version))
            _agree(self._failure(self._greet, version))
            _agree(self._failure(lambda: self._send(version), version))
        except EngineError:
            self._disconnect()
            raise
        self._version = version

    @staticmethod
    def _failure(action: Callable[[], None], version: str) -> EngineError | None:
        try:
            action()
        except EngineError as error:
            return error
        except Exception as error:
            failure = EngineError(f"the vLLM servers did not take over the policy's weights ({version}): {error}")
            failure.__cause__ = error
            return failure
        return None

    def _greet(self) -> None:
        """Whether all servers still answer."""
        for client in self._clients if tenancy.rank() == 0 else ():
            client.weight_version  # noqa: B018

    def _send(self, version: str) -> None:
        for client, transfer in zip(self._clients, self._transfers, strict=True):
            transfer.client.version = version
            transfer.source.expect()
            try:
                transfer.send_weights()
            except Exception:
                if tenancy.world_size() > 1:
                    transfer.source.drain()
                raise
            if tenancy.rank() == 0:
                client.empty_prefix_cache()
                if client.weight_version != version:
                    raise EngineError(
                        f"the vLLM server {client.base_url} holds weights of {client.weight_version!r} after those of "
                        f"{version!r} were sent"
                    )

    def _connect(self, policy: Policy) -> None:
        if self._transfers:
            return
        key = key_from(self.api_key_env)
        import_vllm()
        from lit_tpgrpo.engines.vllm.transfer import PolicySource, open_transfer

        backend = self._backend(policy)
        source = PolicySource(self._current)
        self._loop = loop = LoopThread()
        self._clients = [ServerClient(url, key, self.api_key_env, loop, self.timeout_s) for url in self.urls]
        for client in self._clients:
            if tenancy.rank() == 0:
                _check_server(client, backend)
            self._transfers.append(
                open_transfer(backend, client, source, tenancy.rank(), self.trainer_address, self.transfer_timeout_s)
            )
        limits = [int(client.ask("GET", "v1/models")["data"][0]["max_model_len"]) for client in self._clients]
        self._limit = min(limits)

    def _backend(self, policy: Policy) -> Literal["nccl", "ipc", "gloo"]:
        if self.transfer != "auto":
            return self.transfer
        return "nccl" if policy.policy_model.device.type == "cuda" else "gloo"

    def _current(self) -> Policy:
        assert self._policy is not None
        return self._policy

    # ---- sampling ----

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Yield ``(prompt index, n completions)`` as prompts finish.

        Log-probs are those that vLLM calls processed, see ``VLLMEngine.sample``.

        Raises:
            InputError: a prompt is empty, or prompt plus ``max_new_tokens`` exceeds the servers' ``max_model_len``.
            EngineError: no weights were sent, a server failed, or a sample is of other weights than were sent.
        """
        if not self._version or self._policy is None:
            raise EngineError("VLLMServer.sample was called without weights: load_weights was not called, or it failed")
        check_lengths(prompts, params.max_new_tokens, self._limit)
        tokenizer = self._policy.tokenizer
        ends = sorted(
            {*stop_ids(self._policy.policy_model, cast(int | None, tokenizer.eos_token_id)), *params.stop_ids}
        )
        requests = [
            {
                "request_id": uuid.uuid4().hex,
                "token_ids": list(prompt),
                "sampling_params": request_settings(params, n, own_seed, ends),
            }
            for prompt, own_seed in zip(prompts, seeds, strict=True)
        ]
        pool = ThreadPoolExecutor(max_workers=min(self.concurrency, max(1, len(prompts))))
        jobs: dict[Any, tuple[int, Any, str]] = {}
        try:
            jobs |= {
                pool.submit(self._request, client, request): (i, client, request["request_id"])
                for i, (client, request) in enumerate(zip(itertools.cycle(self._clients), requests, strict=False))
            }
            for job in as_completed(jobs):
                yield jobs[job][0], repeated(job.result(), n)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for _, client, request_id in (jobs[job] for job in jobs if not job.done()):
                self._abort(client, request_id)

    def _abort(self, client: ServerClient, request_id: str) -> None:
        """A server that does not hear it is not worth another error."""
        try:
            assert self._loop is not None
            self._loop.run(client.abort([request_id]))
        except EngineError as error:
            log.warning("%s", error)

    def _request(self, client: Any, request: dict[str, Any]) -> list[Completion]:
        answer = client.ask("POST", "inference/v1/generate", json=request)
        made = []
        for choice in sorted(answer["choices"], key=lambda c: c["index"]):
            self._check_version(client, choice)
            logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
            made.append(completion(choice["token_ids"], logprobs, choice["finish_reason"]))
        return made

    def _check_version(self, client: Any, choice: dict[str, Any]) -> None:
        versions = {span["version"] for span in choice.get("weight_versions") or []}
        if versions != {self._version}:
            raise EngineError(
                f"the vLLM server {client.base_url} sampled with weights of {sorted(versions)}, and {self._version!r} was "
                "sent: does another run send weights to it?"
            )

    # ---- life ----

    def sleep(self) -> None:
        """The servers have their own memory."""

    def wake(self) -> None:
        """They are awake."""

    def close(self) -> None:
        """Leave the servers: they go on, and another run may use them."""
        for transfer in self._transfers if tenancy.rank() == 0 else ():
            try:
                transfer.client.shutdown_weight_transfer_engine()
            except EngineError as error:
                log.warning("%s", error)
        self._disconnect()

    def _disconnect(self) -> None:
        for transfer in self._transfers:
            transfer.shutdown()
        for client in self._clients:
            client.close()
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        self._clients, self._transfers, self._version = [], [], ""


def _check_server(client: ServerClient, backend: str) -> None:
    """Refuse a server that is open to everybody, whose log-probs mean something else, or that takes weights on another way."""
    client.check_guarded()
    config = client.ask("GET", "server_info", params={"config_format": "json"})["vllm_config"]
    mode = config["model_config"]["logprobs_mode"]
    if mode != LOGPROBS_MODE:
        raise EngineError(
            f"the vLLM server {client.base_url} returns {mode}, which are of another distribution than the one sampled from "
            f"unless the temperature is 1; start it with `python -m lit_tpgrpo.serve`, or --logprobs-mode {LOGPROBS_MODE}"
        )
    if config["parallel_config"]["worker_extension_cls"] != EXTENSION:
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


def _agree(failure: EngineError | None) -> None:
    """Raise on every rank what went wrong on any."""
    if tenancy.world_size() > 1:
        told: list[str | None] = [None] * tenancy.world_size()
        torch.distributed.all_gather_object(told, None if failure is None else str(failure))
        first = next((text for text in told if text is not None), None)
        if failure is None and first is not None:
            raise EngineError(first)
    if failure is not None:
        raise failure
