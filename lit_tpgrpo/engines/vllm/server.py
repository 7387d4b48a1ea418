"""vLLM behind addresses: rollouts by servers of their own, on this machine or others."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, cast

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.base import Completion, Policy, SamplingParams
from lit_tpgrpo.engines.checks import check_lengths, stop_ids
from lit_tpgrpo.engines.vllm import process_groups
from lit_tpgrpo.engines.vllm.answers import completions_of
from lit_tpgrpo.engines.vllm.client import LoopThread, ServerClient, checked_address, key_from
from lit_tpgrpo.engines.vllm.environment import import_vllm
from lit_tpgrpo.engines.vllm.guard import KEY_ENV
from lit_tpgrpo.engines.vllm.pool import ServerPool
from lit_tpgrpo.engines.vllm.sampling import repeated, request_settings
from lit_tpgrpo.engines.vllm.servers import PoolLimits, Server, none_left
from lit_tpgrpo.engines.vllm.weights import WeightSender, served_model
from lit_tpgrpo.errors import ConfigError, EngineError

log = logging.getLogger(__name__)


@checked_arguments()
class VLLMServer:
    """Samples from vLLM servers and sends them the policy's weights through vLLM's weight-transfer API.

    Start each with ``python -m lit_tpgrpo.serve MODEL`` and the same key in its environment. A prompt goes to the server that
    has fewest, all its n samples to the same one. Every sample says which weights made it; one of other weights than were
    sent is an error. A server that ends or freezes loses its prompts to the others, with the same seeds; when it is back it
    is checked, given the weights and used again.

    Args:
        urls: one address or several, e.g. ``http://127.0.0.1:8000``.
        transfer: how weights travel: ``nccl`` between GPUs, ``ipc`` between processes on one GPU, ``gloo`` between CPUs;
            ``auto`` is nccl where the policy is on a GPU, else gloo. The servers must have been started with the same.
        trainer_address: of this machine (of rank 0), as the servers reach it.
        api_key_env: name of the environment variable with the servers' key: VLLM_API_KEY, OPENAI_API_KEY, or one that the
            person who runs this allows (see ``lit_tpgrpo.api_keys``).
        concurrency: prompts of this rank in flight at once, over all servers.
        timeout_s: of one prompt's n samples.
        transfer_timeout_s: how long an update waits for a server's next step.
        silence_timeout_s: a server that does not answer a small question for so long counts as lost.
        absence_timeout_s: how long the run waits while all servers are lost, before it ends (with a checkpoint).
        probe_interval_s: time between two such questions to a server.
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
            raise ConfigError(f"VLLMServer: each of urls is one server, got some twice: {', '.join(self.urls)}")
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
        self.transfer_timeout_s = transfer_timeout_s
        self.limits = PoolLimits(concurrency, timeout_s, silence_timeout_s, probe_interval_s, absence_timeout_s)
        self.while_waiting: Callable[[], None] = go_on  # see ``Interruptible`` in lit_tpgrpo.engines.base
        self._policy: Policy | None = None
        self._loop: LoopThread | None = None
        self._servers: list[Server] = []
        self._sender: WeightSender | None = None
        self._limit: int | None = None
        self._version = ""
        self._updates = 0

    # ---- weights ----

    def load_weights(self, policy: Policy) -> None:
        """Send the policy's current weights to all servers that are there. Collective: every rank calls it, rank 0 sends.

        Raises:
            EngineError: no server came in time, one was started otherwise than training needs, or did not take all of the
                weights over. No rank samples then.
        """
        if process_groups.world_size() > 1:
            torch.distributed.barrier()  # another rank may still be sampling with the weights of before
        self._policy, self._version = policy, ""
        self._updates += 1
        version = f"step {policy.policy_version}, update {self._updates}"
        try:
            process_groups.raise_if_any_failed(lambda: self._connect(policy))
            version += f" of run {process_groups.from_all(uuid.uuid4().hex[:8])[0]}"  # two runs may be at the same step
            self._update_servers(version)
        except EngineError:
            self._disconnect()
            raise
        self._version = version

    def _update_servers(self, version: str) -> None:
        """Until at least one server has the weights, or the time is up."""
        since, said = time.monotonic(), False
        while not sum(self._sender_of().update(server, version) for server in self._servers):  # all of them, not any
            if not said:
                log.warning("no vLLM server can be used: waiting up to %g s for one", self.limits.absence_s)
                said = True
            expired = process_groups.from_all(time.monotonic() - since > self.limits.absence_s)[0]
            process_groups.raise_if_any_failed(self._give_up if expired else self.while_waiting)
            time.sleep(min(self.limits.probe_s, self.limits.absence_s))
        process_groups.raise_if_any_failed(self._take_limits)

    def _give_up(self) -> None:
        raise EngineError(none_left(self._servers, self.limits.absence_s))

    def _connect(self, policy: Policy) -> None:
        if self._sender is not None:
            return
        key = key_from(self.api_key_env)
        import_vllm()
        backend = self.transfer if self.transfer != "auto" else _backend_of(policy)
        self._loop = loop = LoopThread()
        self._sender = WeightSender(self._current, backend, self.trainer_address, self.transfer_timeout_s, loop)
        waits = (self.transfer_timeout_s, self.limits.silence_s)
        self._servers = [Server(ServerClient(url, key, self.api_key_env, loop, *waits)) for url in self.urls]

    def _take_limits(self) -> None:
        """Prompts must fit on each server."""
        self._limit = min(served_model(server.client)[1] for server in self._servers if not server.lost)

    def _admit(self, server: Server) -> None:
        """Give a server that came back in mid-round the weights that are being sampled from."""
        if not self._sender_of().alone:
            raise EngineError("it gets the weights with the next round's, from all processes of the run together")
        try:
            self._sender_of().greet(server)
            self._sender_of().send(server, self._version)
        except EngineError:
            self._sender_of().drop(server)
            raise

    def _sender_of(self) -> WeightSender:
        assert self._sender is not None
        return self._sender

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
            EngineError: no weights were sent, no server came back in time, a prompt is refused, or a sample is of another
                run's weights.
        """
        if not self._version or self._policy is None or self._loop is None:
            raise EngineError("VLLMServer.sample was called without weights: load_weights was not called, or it failed")
        check_lengths(prompts, params.max_new_tokens, self._limit)
        tokenizer = self._policy.tokenizer
        ends = sorted(
            {*stop_ids(self._policy.policy_model, cast(int | None, tokenizer.eos_token_id)), *params.stop_ids}
        )
        bodies = [
            {"token_ids": list(prompt), "sampling_params": request_settings(params, n, own_seed, ends)}
            for prompt, own_seed in zip(prompts, seeds, strict=True)
        ]
        pool = ServerPool(self._servers, self._loop, self.limits, self._admit, self.while_waiting)
        for i, completions in pool.generate(bodies, self._version, partial(completions_of, version=self._version)):
            yield i, repeated(completions, n)

    # ---- life ----

    def sleep(self) -> None:
        """The servers have their own memory."""

    def wake(self) -> None:
        """They are awake."""

    def close(self) -> None:
        """Leave the servers: they go on, and another run may use them."""
        for server in self._servers if process_groups.rank() == 0 else ():
            if server.lost:
                continue
            try:
                self._sender_of().say_goodbye(server)
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


def go_on() -> None:
    """What waits, waits on."""


def _backend_of(policy: Policy) -> Literal["nccl", "gloo"]:
    return "nccl" if policy.policy_model.device.type == "cuda" else "gloo"
