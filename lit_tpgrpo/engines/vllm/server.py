"""Rollouts on vLLM servers, on this machine or others."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, cast

import torch

from lit_tpgrpo import distributed
from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.base import Completion, Policy, SamplingParams
from lit_tpgrpo.engines.checks import check_lengths, stop_ids
from lit_tpgrpo.engines.vllm import process_groups
from lit_tpgrpo.engines.vllm.answers import parse_completions
from lit_tpgrpo.engines.vllm.client import EventLoopThread, ServerClient, checked_address, read_server_key
from lit_tpgrpo.engines.vllm.environment import import_vllm
from lit_tpgrpo.engines.vllm.guard import KEY_ENV
from lit_tpgrpo.engines.vllm.pool import ServerPool
from lit_tpgrpo.engines.vllm.sampling import repeat_greedy, request_settings
from lit_tpgrpo.engines.vllm.server_checks import served_model
from lit_tpgrpo.engines.vllm.servers import PoolLimits, Server, no_server_message
from lit_tpgrpo.engines.vllm.weight_forms import ADAPTER, FormName, weight_form
from lit_tpgrpo.engines.vllm.weights import BUCKET_MIB, TransferSettings, WeightSender
from lit_tpgrpo.errors import ConfigError, EngineError

log = logging.getLogger(__name__)


@checked_arguments()
class VLLMServer:
    """Engine on vLLM servers; sends them the policy's weights through vLLM's weight-transfer API.

    Start each server with ``python -m lit_tpgrpo.serve MODEL`` and the same key in its environment. A prompt is sent, with
    all its n samples, to the server with the fewest prompts in flight. Every sample carries the version of the weights that
    sampled it; a version other than the one sent is an error. If a server fails or hangs, its prompts are sampled by the
    other servers with the same seeds; when it recovers it is checked, receives the weights and is used again.

    Args:
        urls: one or more addresses, e.g. ``http://127.0.0.1:8000``.
        transfer: how weights are sent: ``nccl`` between GPUs, ``ipc`` between processes on one GPU, ``gloo`` between CPUs;
            ``auto`` is nccl if the policy is on a GPU, else gloo. The servers must have been started with the same value.
        trainer_address: address of this machine (rank 0) that the servers can reach.
        api_key_env: name of the environment variable with the servers' key: VLLM_API_KEY, OPENAI_API_KEY, or one that the
            user allows (see ``lit_tpgrpo.api_keys``).
        bucket_mib: most MiB of one message of weights, which holds many tensors (a larger tensor has one of its own); memory
            that a transfer needs on both sides besides the weights, twice that on GPUs. None: 4 between CPUs, 1024 on GPUs.
        adapter: how the policy's LoRA adapter is sent: ``separate``, beside the weights, which a server gets once (it must have
            been started with ``--adapter-rank``); ``merged`` into them, each time: bfloat16 rounds small updates away.
        concurrency: prompts of this rank in flight at once, over all servers.
        timeout_s: seconds for one prompt's n samples.
        transfer_timeout_s: seconds that an update waits for a server's current step.
        silence_timeout_s: seconds after which a server that does not answer a small status request counts as lost.
        absence_timeout_s: seconds that the run waits while all servers are lost, before it ends (with a checkpoint).
        probe_interval_s: seconds between two status requests to a server.
    """

    collective = True  # load_weights is collective: callers must not call it on some ranks only
    mismatched = True  # see ``Engine`` in lit_tpgrpo.engines.base
    concurrent = True  # likewise

    def __init__(
        self,
        urls: str | list[str],
        transfer: Literal["auto", "nccl", "ipc", "gloo"] = "auto",
        trainer_address: str = "127.0.0.1",
        api_key_env: str = KEY_ENV,
        bucket_mib: float | None = None,
        adapter: FormName = "separate",
        concurrency: int = 256,
        timeout_s: float = 3600.0,
        transfer_timeout_s: float = 600.0,
        silence_timeout_s: float = 120.0,
        absence_timeout_s: float = 600.0,
        probe_interval_s: float = 5.0,
    ) -> None:
        self.urls = [checked_address(url, api_key_env) for url in ([urls] if isinstance(urls, str) else urls)]
        if not self.urls or concurrency < 1:
            raise ConfigError(
                f"VLLMServer needs an address and a concurrency of at least 1, got {urls!r}, {concurrency}"
            )
        if len(set(self.urls)) < len(self.urls):
            raise ConfigError(f"VLLMServer: urls must be different servers, got some twice: {', '.join(self.urls)}")
        if bucket_mib is not None and not 0 < bucket_mib < math.inf:  # written so that nan is refused as well
            raise ConfigError(f"VLLMServer: bucket_mib must be a positive number of MiB, got {bucket_mib}")
        limits = {
            "timeout_s": timeout_s,
            "transfer_timeout_s": transfer_timeout_s,
            "silence_timeout_s": silence_timeout_s,
        }
        limits |= {"absence_timeout_s": absence_timeout_s, "probe_interval_s": probe_interval_s}
        for name, seconds in limits.items():
            if not 0 < seconds < math.inf:  # written so that nan is refused as well
                raise ConfigError(f"VLLMServer: {name} must be a positive number of seconds, got {seconds}")
        self.transfer: Literal["auto", "nccl", "ipc", "gloo"] = transfer
        self.trainer_address = trainer_address
        self.api_key_env = api_key_env
        self.bucket_mib = bucket_mib
        self.adapter: FormName = adapter
        self.transfer_timeout_s = transfer_timeout_s
        self.limits = PoolLimits(concurrency, timeout_s, silence_timeout_s, probe_interval_s, absence_timeout_s)
        self.while_waiting: Callable[[], None] = keep_waiting  # see ``Interruptible`` in lit_tpgrpo.engines.base
        self._policy: Policy | None = None
        self._loop: EventLoopThread | None = None
        self._servers: list[Server] = []
        self._sender: WeightSender | None = None
        self._limit: int | None = None
        self._version = ""
        self._updates = 0

    # ---- weights ----

    def load_weights(self, policy: Policy) -> None:
        """Send the policy's current weights to all available servers. Collective: every rank calls it, rank 0 sends.

        Raises:
            EngineError: no server became available in time, the settings of one do not fit training, or one did not load
                all of the weights. No rank samples then.
        """
        if distributed.world_size() > 1:
            torch.distributed.barrier()  # another rank may still be sampling with the previous weights
        self._policy, self._version = policy, ""
        self._updates += 1
        version = f"step {policy.policy_version}, update {self._updates}"
        try:
            process_groups.raise_if_any_failed(lambda: self._connect(policy))
            version += f" of run {distributed.gather(uuid.uuid4().hex[:8])[0]}"  # two runs may be at the same step
            self._update_servers(version)
        except EngineError:
            self._disconnect()
            raise
        self._version = version

    def _update_servers(self, version: str) -> None:
        """Send the weights to all servers; repeat until at least one has them or ``absence_timeout_s`` is over."""
        since, logged = time.monotonic(), False
        while not sum(self._weight_sender().update(server, version) for server in self._servers):  # sum: update all
            if not logged:
                log.warning("no vLLM server can be used: waiting up to %g s for one", self.limits.absence_s)
                logged = True
            expired = distributed.gather(time.monotonic() - since > self.limits.absence_s)[0]
            process_groups.raise_if_any_failed(self._raise_no_server if expired else self.while_waiting)
            time.sleep(min(self.limits.probe_s, self.limits.absence_s))
        process_groups.raise_if_any_failed(self._read_limits)

    def _raise_no_server(self) -> None:
        raise EngineError(no_server_message(self._servers, self.limits.absence_s))

    def _connect(self, policy: Policy) -> None:
        if self._sender is not None:
            return
        key = read_server_key(self.api_key_env)
        import_vllm()
        backend = self.transfer if self.transfer != "auto" else _backend_of(policy)
        self._loop = loop = EventLoopThread()
        size = max(1, int((self.bucket_mib or BUCKET_MIB[backend]) * 2**20))
        form = weight_form(self.adapter)
        settings = TransferSettings(backend, self.trainer_address, self.transfer_timeout_s, size, form)
        self._sender = WeightSender(self._current_policy, settings, loop)
        timeouts = (self.transfer_timeout_s, self.limits.silence_s)
        self._servers = [Server(ServerClient(url, key, self.api_key_env, loop, *timeouts)) for url in self.urls]

    def _read_limits(self) -> None:
        """Read the smallest ``max_model_len`` of the servers: a prompt must fit on each."""
        self._limit = min(served_model(server.client)[1] for server in self._servers if not server.lost)

    def _admit(self, server: Server) -> None:
        """Send the round's weights to a server that recovered during the round."""
        if not self._weight_sender().can_send_alone:
            raise EngineError("it gets the weights of the next round, which all ranks send together")
        try:
            self._weight_sender().prepare(server)
            self._weight_sender().send(server, self._version)
        except EngineError:
            self._weight_sender().drop(server)
            raise

    def _weight_sender(self) -> WeightSender:
        assert self._sender is not None
        return self._sender

    def _current_policy(self) -> Policy:
        assert self._policy is not None
        return self._policy

    # ---- sampling ----

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Yield ``(prompt index, n completions)`` as prompts finish.

        Log-probs are vLLM's processed ones, see ``VLLMEngine.sample``.

        Raises:
            InputError: a prompt is empty, or prompt plus ``max_new_tokens`` exceeds the servers' ``max_model_len``.
            EngineError: no weights were sent, no server recovered in time, a prompt is refused, or a sample is of another
                run's weights.
        """
        if not self._version or self._policy is None or self._loop is None:
            raise EngineError("VLLMServer.sample was called without weights: load_weights was not called, or it failed")
        check_lengths(prompts, params.max_new_tokens, self._limit)
        tokenizer = self._policy.tokenizer
        end_ids = sorted(
            {*stop_ids(self._policy.policy_model, cast(int | None, tokenizer.eos_token_id)), *params.stop_ids}
        )
        adapted = weight_form(self.adapter).update(self._policy, "").rank > 0
        model = {"model": ADAPTER} if adapted else {}
        bodies = [
            {**model, "token_ids": list(prompt), "sampling_params": request_settings(params, n, seed, end_ids)}
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        pool = ServerPool(self._servers, self._loop, self.limits, self._admit, self.while_waiting)
        parse = partial(parse_completions, version=self._version, end_ids=end_ids if params.stop else None)
        for i, completions in pool.generate(bodies, self._version, parse):
            yield i, repeat_greedy(completions, n)

    # ---- shutdown ----

    def sleep(self) -> None:
        """Do nothing: the servers use other memory than the trainer."""

    def wake(self) -> None:
        """Do nothing: the servers are always awake."""

    def close(self) -> None:
        """Disconnect from the servers. They keep running, and another run can use them."""
        for server in self._servers if distributed.rank() == 0 else ():
            if server.lost:
                continue
            try:
                self._weight_sender().release(server)
            except EngineError as error:
                log.warning("%s", error)
        self._disconnect()

    def _disconnect(self) -> None:
        for server in self._servers:
            if self._sender is not None:
                self._sender.drop(server)
            server.client.close()
        if self._loop is not None:
            self._loop.close()
        self._servers, self._loop, self._sender, self._version = [], None, None, ""


def keep_waiting() -> None:
    """Do nothing, so that the wait continues: the default of ``while_waiting``."""


def _backend_of(policy: Policy) -> Literal["nccl", "gloo"]:
    return "nccl" if policy.policy_model.device.type == "cuda" else "gloo"
