"""Rollout servers as a process of the training sees them: which are used, and how long one waits for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_tpgrpo.engines.vllm.client import FRESH, LoopThread, ServerClient

log = logging.getLogger(__name__)

_BACKOFF_S = (2.0, 300.0)


@dataclass(frozen=True)
class PoolLimits:
    """How long a pool waits for what.

    Attributes:
        concurrency: prompts in flight at once, over all servers.
        request_s: seconds for one prompt.
        silence_s: seconds after which a server that does not say which weights it has counts as lost.
        probe_s: seconds between two such questions.
        absence_s: seconds without any server before the work is given up.
    """

    concurrency: int = 256
    request_s: float = 3600.0
    silence_s: float = 120.0
    probe_s: float = 5.0
    absence_s: float = 600.0


@dataclass(eq=False)
class Server:
    """One server as a rank sees it.

    Attributes:
        known: it has been used in this run. One that then comes back otherwise is left out; before, that is a mistake of setup.
        lost: why it gets no prompts; "" while it gets some.
        orphans: requests that it may still be working on, for nobody.
        retry_at: when it may be taken back at the earliest (``time.monotonic``).
        changed_at: when it was last lost or taken back. What was seen of it before is out of date.
    """

    client: ServerClient
    known: bool = False
    lost: str = ""
    orphans: list[str] = field(default_factory=list)
    retry_at: float = 0.0
    refusals: int = 0
    changed_at: float = 0.0

    @property
    def url(self) -> str:
        return self.client.base_url

    def abort_orphans(self, loop: LoopThread) -> None:
        """End what it does for nobody: it would hold up an update, and slow down all else."""
        if self.orphans:
            loop.run(self.client.abort(self.orphans))
            self.orphans = []

    def leave_out(self, reason: str) -> None:
        """Use it no more until ``take_back``."""
        if reason != self.lost:
            log.warning("the vLLM server %s is not used: %s", self.url, reason)
        self.lost = reason

    def postpone(self, reason: str) -> None:
        """It could not be taken back: each time it is tried again later."""
        if reason != self.lost:
            log.warning("the vLLM server %s answers and is not used: %s", self.url, reason)
        self.lost = reason
        self.refusals += 1
        self.retry_at = time.monotonic() + min(_BACKOFF_S[0] * 2**self.refusals, _BACKOFF_S[1])

    def take_back(self) -> None:
        self.known, self.lost, self.refusals, self.retry_at = True, "", 0, 0.0
        self.changed_at = time.monotonic()


def of_another_run(version: str, ours: str) -> bool:
    """Whether weights were sent by another run than ours: neither nobody's nor an earlier update of this run."""
    return version != FRESH and version.rpartition(" of run ")[2] != ours.rpartition(" of run ")[2]


def none_left(servers: Sequence[Server], limit: float) -> str:
    """What is said where the work is given up."""
    reasons = "; ".join(f"{server.url}: {server.lost}" for server in servers)
    return (
        f"no vLLM server was there for {limit:g} s ({reasons}). What was sampled is stored: start a server, then resume with "
        "--ckpt_path"
    )
