"""State of the rollout servers on a training rank: which are used, and the timeouts."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_tpgrpo.engines.vllm.client import INITIAL_VERSION, EventLoopThread, ServerClient

log = logging.getLogger(__name__)

_BACKOFF_S = (2.0, 300.0)


@dataclass(frozen=True)
class PoolLimits:
    """Concurrency and timeouts of a ``ServerPool``.

    Attributes:
        concurrency: prompts in flight at once, over all servers.
        request_s: seconds for one prompt.
        silence_s: seconds after which a server that does not answer a probe (its weight version) counts as lost.
        probe_s: seconds between two probes.
        absence_s: seconds without any server before the run gives up.
    """

    concurrency: int = 256
    request_s: float = 3600.0
    silence_s: float = 120.0
    probe_s: float = 5.0
    absence_s: float = 600.0


@dataclass(eq=False)
class Server:
    """State of one server on this rank.

    Attributes:
        client: HTTP client of the server.
        used_before: it has been used in this run. If it then recovers with other settings, it is excluded; before, wrong
            settings are an error of setup.
        lost: why it gets no prompts; "" while it is used.
        orphans: ids of requests that it may still be working on although no one needs the result.
        retry_at: earliest time of the next attempt to use it again (``time.monotonic``).
        refusals: attempts to use it again that failed.
        changed_at: when it was last lost or used again; results of earlier probes are outdated.
    """

    client: ServerClient
    used_before: bool = False
    lost: str = ""
    orphans: list[str] = field(default_factory=list)
    retry_at: float = 0.0
    refusals: int = 0
    changed_at: float = 0.0

    @property
    def url(self) -> str:
        return self.client.base_url

    def abort_orphans(self, loop: EventLoopThread) -> None:
        """Abort its orphaned requests, which would delay an update and slow down other requests."""
        if self.orphans:
            loop.run(self.client.abort(self.orphans))
            self.orphans = []

    def exclude(self, reason: str) -> None:
        """Stop using it until ``readmit``."""
        if reason != self.lost:
            log.warning("the vLLM server %s is not used: %s", self.url, reason)
        self.lost = reason

    def postpone(self, reason: str) -> None:
        """Record that it cannot be used again yet: the next attempt is made after a backoff that doubles each time."""
        if reason != self.lost:
            log.warning("the vLLM server %s answers and is not used: %s", self.url, reason)
        self.lost = reason
        self.refusals += 1
        self.retry_at = time.monotonic() + min(_BACKOFF_S[0] * 2**self.refusals, _BACKOFF_S[1])

    def readmit(self) -> None:
        """Use it from now on."""
        self.used_before, self.lost, self.refusals, self.retry_at = True, "", 0, 0.0
        self.changed_at = time.monotonic()


def is_from_another_run(version: str, current: str) -> bool:
    """Return whether a weight version is neither the initial one nor an earlier update of the run of ``current``."""
    return version != INITIAL_VERSION and version.rpartition(" of run ")[2] != current.rpartition(" of run ")[2]


def no_server_message(servers: Sequence[Server], limit: float) -> str:
    """Return the error message for a run that gives up waiting for servers."""
    reasons = "; ".join(f"{server.url}: {server.lost}" for server in servers)
    return (
        f"no vLLM server was available for {limit:g} s ({reasons}). All samples are stored: start a server, then resume with "
        "--ckpt_path"
    )
