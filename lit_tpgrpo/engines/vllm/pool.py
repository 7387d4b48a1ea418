"""Distributes prompts over several rollout servers, which may fail, hang and recover while they sample."""

from __future__ import annotations

import asyncio
import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from lit_tpgrpo.engines.vllm.client import EventLoopThread, ServerClient, ServerLostError, ServerRefusedError
from lit_tpgrpo.engines.vllm.servers import PoolLimits, Server, is_from_another_run, no_server_message
from lit_tpgrpo.errors import EngineError

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_FAILURES = 3
"""Server errors per prompt before the prompt itself is considered the cause."""
MAX_LOSSES = 8
"""Lost servers per prompt before the prompt is considered the cause of their failures."""
_TICK_S = 0.5
_SERVER_CHANGED = (401, 403, 404)  # the server is at fault, not the request: another program answers at its address


@dataclass(eq=False)
class _InFlight:
    """A prompt that was sent to a server and is not answered yet."""

    index: int
    server: Server
    request_id: str
    future: Future[Any]


@dataclass(frozen=True)
class _ProbeResult:
    """Result of a status request to a server: the version of its weights, or the error."""

    server: Server
    sent_at: float
    version: str
    error: EngineError | None


@dataclass(frozen=True)
class ServerPool:
    """Distributes prompts over the available servers. All decisions are taken in the caller's thread, one after another.

    Attributes:
        servers: all servers of the run.
        loop: event loop of the requests.
        limits: concurrency and timeouts.
        admit: sends the current weights to a server that recovered; raises ``EngineError`` if it cannot be used.
        while_waiting: called about twice a second; an exception from it ends ``generate``.
    """

    servers: Sequence[Server]
    loop: EventLoopThread
    limits: PoolLimits
    admit: Callable[[Server], None]
    while_waiting: Callable[[], None]

    def generate(
        self, bodies: Sequence[dict[str, Any]], version: str, read: Callable[[ServerClient, Any], T]
    ) -> Iterator[tuple[int, T]]:
        """Send one request per body; yield ``(index of the body, parsed response)`` as responses arrive.

        Args:
            bodies: bodies of the requests, without ``request_id``: each attempt gets a new one.
            version: the version of the weights that a server must have to be used.
            read: parses a response; raises ``ServerLostError`` if the server aborted the request.

        Raises:
            EngineError: no server recovered in time, or a request itself is at fault.
        """
        run = _Generation(self, bodies, version, read)
        try:
            while run.left:
                yield from run.advance()
                self.while_waiting()
        finally:
            run.close()


class _Generation:
    """State of one call of ``generate``: waiting prompts, prompts in flight, events of servers."""

    def __init__(
        self,
        pool: ServerPool,
        bodies: Sequence[dict[str, Any]],
        version: str,
        read: Callable[[ServerClient, Any], Any],
    ) -> None:
        self._servers, self._loop, self._limits, self._admit = pool.servers, pool.loop, pool.limits, pool.admit
        self._bodies, self._version, self._read = bodies, version, read
        self.left = len(bodies)
        self._waiting = deque(range(len(bodies)))
        self._in_flight: set[_InFlight] = set()
        self._failures, self._losses = [0] * len(bodies), [0] * len(bodies)
        self._events: queue.SimpleQueue[_InFlight | _ProbeResult] = queue.SimpleQueue()
        self._absent_since: float | None = None
        self._probes = [pool.loop.submit(self._probe(server)) for server in pool.servers] if bodies else []

    def advance(self) -> Iterator[tuple[int, Any]]:
        """Send waiting prompts, then handle one event, if one arrives within half a second."""
        self._check_absence()
        self._send()
        try:
            event = self._events.get(timeout=_TICK_S)
        except queue.Empty:
            return
        if isinstance(event, _ProbeResult):
            self._handle_probe(event)
        elif event in self._in_flight:  # otherwise the late response of a lost server, which is ignored
            self._in_flight.remove(event)
            yield from self._handle_response(event)

    def close(self) -> None:
        """Cancel all tasks here, and abort the requests on the servers that are available."""
        for future in [*self._probes, *(request.future for request in self._in_flight)]:
            future.cancel()
        for request in self._in_flight:
            request.server.orphans.append(request.request_id)
        self._in_flight.clear()
        for server in self._servers:
            if not server.lost:
                try:
                    server.abort_orphans(self._loop)
                except EngineError as error:
                    log.warning("%s", error)

    # ---- sending ----

    def _send(self) -> None:
        ready = [server for server in self._servers if not server.lost]
        while ready and self._waiting and len(self._in_flight) < self._limits.concurrency:
            load = dict.fromkeys(ready, 0)
            for request in self._in_flight:
                load[request.server] += 1
            server = min(ready, key=load.__getitem__)
            index = self._waiting.popleft()
            request_id = uuid.uuid4().hex
            body = {**self._bodies[index], "request_id": request_id}
            response = server.client.ask_async("POST", "inference/v1/generate", self._limits.request_s, json=body)
            request = _InFlight(index, server, request_id, self._loop.submit(response))
            self._in_flight.add(request)
            request.future.add_done_callback(lambda _, request=request: self._events.put(request))

    # ---- events ----

    def _handle_response(self, request: _InFlight) -> Iterator[tuple[int, Any]]:
        try:
            result = self._read(request.server.client, request.future.result())
        except ServerLostError as error:
            self._mark_lost(request.server, str(error), [request.index])
        except ServerRefusedError as error:
            if error.status < 500 and error.status not in _SERVER_CHANGED:
                raise
            self._failures[request.index] += 1
            if self._failures[request.index] > MAX_FAILURES:
                raise EngineError(
                    f"prompt {request.index} failed {MAX_FAILURES + 1} times; the last time: {error}"
                ) from error
            self._mark_lost(request.server, str(error), [request.index], count_losses=False)
        else:
            self.left -= 1
            yield request.index, result

    def _handle_probe(self, probe: _ProbeResult) -> None:
        server = probe.server
        if probe.sent_at < server.changed_at:
            return
        if probe.error is not None:
            if server.lost:
                server.lost = str(probe.error)  # the current reason
            else:
                self._mark_lost(server, str(probe.error), [])
        elif not server.lost and probe.version != self._version:
            if is_from_another_run(probe.version, self._version):
                raise EngineError(
                    f"the vLLM server {server.url} has weights of {probe.version!r}, expected {self._version!r}: does another "
                    "run send weights to it?"
                )
            self._mark_lost(server, "it was restarted", [])
        elif server.lost and (probe.version == self._version or time.monotonic() >= server.retry_at):
            self._readmit(server, probe.version)

    def _readmit(self, server: Server, version: str) -> None:
        """Use a server that recovered again, after sending it the weights if it lacks them."""
        try:
            server.abort_orphans(self._loop)
            if version != self._version:
                if is_from_another_run(version, self._version):
                    raise EngineError(f"it has weights of {version!r}: does another run send weights to it?")
                self._admit(server)
        except EngineError as error:
            server.postpone(str(error))
            return
        log.warning("the vLLM server %s is back and is used again", server.url)
        server.readmit()

    def _mark_lost(self, server: Server, reason: str, failed: list[int], count_losses: bool = True) -> None:
        """Stop using a server and put its prompts first in the queue for the remaining servers; late responses are ignored.

        Args:
            server: the lost server.
            reason: why it is lost, for messages.
            failed: prompts of the server that are not in flight any more.
            count_losses: count this as a loss of all its prompts. Not if the server failed at one prompt: then the prompts
                beside it are not the cause.
        """
        lost = [request for request in self._in_flight if request.server is server]
        for request in lost:
            self._in_flight.remove(request)
            request.future.cancel()
            server.orphans.append(request.request_id)
        indices = sorted([*failed, *(request.index for request in lost)])
        self._waiting.extendleft(reversed(indices))
        for index in indices if count_losses else ():
            self._losses[index] += 1
            if self._losses[index] > MAX_LOSSES:
                raise EngineError(
                    f"prompt {index} was lost with its server {self._losses[index]} times; the last time: {reason}. Look at "
                    "the servers' logs: does the prompt crash them?"
                )
        if not server.lost:
            log.warning(
                "the vLLM server %s is lost (%s): its %d prompts go to the other servers; it is used again when it is back",
                *(server.url, reason, len(indices)),
            )
        server.lost, server.changed_at = reason, time.monotonic()

    # ---- timeouts ----

    def _check_absence(self) -> None:
        if any(not server.lost for server in self._servers):
            self._absent_since = None
            return
        now, limit = time.monotonic(), self._limits.absence_s
        if self._absent_since is None:
            self._absent_since = now
            log.warning("no vLLM server is available: waiting up to %g s for one", limit)
        elif now - self._absent_since > limit:
            raise EngineError(no_server_message(self._servers, limit))

    async def _probe(self, server: Server) -> None:
        """Fetch the version of a server's weights at intervals: a server that fails or hangs does not report it."""
        while True:
            sent_at = time.monotonic()
            try:
                result = _ProbeResult(server, sent_at, await server.client.fetch_weight_version(), None)
            except EngineError as error:
                result = _ProbeResult(server, sent_at, "", error)
            self._events.put(result)
            await asyncio.sleep(self._limits.probe_s)
