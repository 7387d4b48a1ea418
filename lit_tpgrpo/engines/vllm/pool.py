"""Prompts over several rollout servers that may end, freeze and come back while they sample."""

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

from lit_tpgrpo.engines.vllm.client import LoopThread, ServerClient, ServerLostError, ServerRefusedError
from lit_tpgrpo.engines.vllm.servers import PoolLimits, Server, none_left, of_another_run
from lit_tpgrpo.errors import EngineError

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_FAILURES = 3
"""Times that a prompt may be answered with an error of the server before that is taken for the prompt's doing."""
MAX_LOSSES = 8
"""Times that a prompt may be lost with its server before it is taken for what ends servers."""
_TICK_S = 0.5
_ELSEWHERE = (401, 403, 404)  # of the server, not of the request: what answers is not what was there before


@dataclass(eq=False)
class _Flight:
    """A prompt that a server works on."""

    index: int
    server: Server
    request_id: str
    future: Future[Any]


@dataclass(frozen=True)
class _Heard:
    """What a look at a server showed: the version of its weights, or why there is none."""

    server: Server
    asked_at: float
    version: str
    error: EngineError | None


@dataclass(frozen=True)
class ServerPool:
    """Deals prompts to the servers that are there. Decisions are taken in the caller's thread, one after another.

    Attributes:
        servers: all of the run's.
        loop: where requests run.
        limits: see there.
        admit: gives a server that came back the current weights; raises ``EngineError`` where it cannot be used.
        while_waiting: called about twice a second; what it raises ends the work.
    """

    servers: Sequence[Server]
    loop: LoopThread
    limits: PoolLimits
    admit: Callable[[Server], None]
    while_waiting: Callable[[], None]

    def generate(
        self, bodies: Sequence[dict[str, Any]], version: str, read: Callable[[ServerClient, Any], T]
    ) -> Iterator[tuple[int, T]]:
        """Yield ``(index of the body, its answer)`` as answers come.

        Args:
            bodies: of the requests, without ``request_id``: each way to a server gets one of its own.
            version: of the weights that servers must have to be used.
            read: an answer; raises ``ServerLostError`` where the server gave the request up.

        Raises:
            EngineError: no server came back in time, or a request is at fault itself.
        """
        run = _Run(self, bodies, version, read)
        try:
            while run.left:
                yield from run.step()
                self.while_waiting()
        finally:
            run.end()


class _Run:
    """One call of ``generate``: what waits, what is in flight, what was heard."""

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
        self._flights: set[_Flight] = set()
        self._failures, self._losses = [0] * len(bodies), [0] * len(bodies)
        self._events: queue.SimpleQueue[_Flight | _Heard] = queue.SimpleQueue()
        self._absent_since: float | None = None
        self._watchers = [pool.loop.start(self._watch(server)) for server in pool.servers] if bodies else []

    def step(self) -> Iterator[tuple[int, Any]]:
        """Send what can be sent, then take what has come."""
        self._check_absence()
        self._send()
        try:
            event = self._events.get(timeout=_TICK_S)
        except queue.Empty:
            return
        if isinstance(event, _Heard):
            self._hear(event)
        elif event in self._flights:  # else a late answer, of a server that was given up
            self._flights.remove(event)
            yield from self._landed(event)

    def end(self) -> None:
        """Leave nothing running, here or on the servers that are there."""
        for work in [*self._watchers, *(flight.future for flight in self._flights)]:
            work.cancel()
        for flight in self._flights:
            flight.server.orphans.append(flight.request_id)
        self._flights.clear()
        for server in self._servers:
            if not server.lost:
                try:
                    server.abort_orphans(self._loop)
                except EngineError as error:
                    log.warning("%s", error)

    # ---- sending ----

    def _send(self) -> None:
        ready = [server for server in self._servers if not server.lost]
        while ready and self._waiting and len(self._flights) < self._limits.concurrency:
            load = dict.fromkeys(ready, 0)
            for flight in self._flights:
                load[flight.server] += 1
            server = min(ready, key=load.__getitem__)
            index = self._waiting.popleft()
            request_id = uuid.uuid4().hex
            body = {**self._bodies[index], "request_id": request_id}
            work = server.client.asked("POST", "inference/v1/generate", self._limits.request_s, json=body)
            flight = _Flight(index, server, request_id, self._loop.start(work))
            self._flights.add(flight)
            flight.future.add_done_callback(lambda _, flight=flight: self._events.put(flight))

    # ---- what comes ----

    def _landed(self, flight: _Flight) -> Iterator[tuple[int, Any]]:
        try:
            result = self._read(flight.server.client, flight.future.result())
        except ServerLostError as error:
            self._lose(flight.server, str(error), [flight.index])
        except ServerRefusedError as error:
            if error.status < 500 and error.status not in _ELSEWHERE:
                raise
            self._failures[flight.index] += 1
            if self._failures[flight.index] > MAX_FAILURES:
                raise EngineError(
                    f"prompt {flight.index} failed {MAX_FAILURES + 1} times; the last time: {error}"
                ) from error
            self._lose(flight.server, str(error), [flight.index], counted=False)
        else:
            self.left -= 1
            yield flight.index, result

    def _hear(self, heard: _Heard) -> None:
        server = heard.server
        if heard.asked_at < server.changed_at:
            return
        if heard.error is not None:
            if server.lost:
                server.lost = str(heard.error)  # why it is not there now
            else:
                self._lose(server, str(heard.error), [])
        elif not server.lost and heard.version != self._version:
            if of_another_run(heard.version, self._version):
                raise EngineError(
                    f"the vLLM server {server.url} has weights of {heard.version!r}, and {self._version!r} was sent: does "
                    "another run send weights to it?"
                )
            self._lose(server, "it was restarted", [])
        elif server.lost and (heard.version == self._version or time.monotonic() >= server.retry_at):
            self._return(server, heard.version)

    def _return(self, server: Server, version: str) -> None:
        try:
            server.abort_orphans(self._loop)
            if version != self._version:
                if of_another_run(version, self._version):
                    raise EngineError(f"it has weights of {version!r}: does another run send weights to it?")
                self._admit(server)
        except EngineError as error:
            server.postpone(str(error))
            return
        log.warning("the vLLM server %s is back and is used again", server.url)
        server.take_back()

    def _lose(self, server: Server, reason: str, with_it: list[int], counted: bool = True) -> None:
        """Its prompts go to the others, first of all that wait; an answer that comes late is not looked at.

        Args:
            with_it: prompts that are not in flight any more.
            counted: as a loss of its prompts. Those beside one that a server failed at had no part in it.
        """
        gone = [flight for flight in self._flights if flight.server is server]
        for flight in gone:
            self._flights.remove(flight)
            flight.future.cancel()
            server.orphans.append(flight.request_id)
        indices = sorted([*with_it, *(flight.index for flight in gone)])
        self._waiting.extendleft(reversed(indices))
        for index in indices if counted else ():
            self._losses[index] += 1
            if self._losses[index] > MAX_LOSSES:
                raise EngineError(
                    f"prompt {index} was lost with its server {self._losses[index]} times; the last time: {reason}. Look at "
                    "the servers' own logs: does the prompt end them?"
                )
        if not server.lost:
            log.warning(
                "the vLLM server %s is lost (%s): its %d prompts go to the others; it is used again when it is back",
                *(server.url, reason, len(indices)),
            )
        server.lost, server.changed_at = reason, time.monotonic()

    # ---- time ----

    def _check_absence(self) -> None:
        if any(not server.lost for server in self._servers):
            self._absent_since = None
            return
        now, limit = time.monotonic(), self._limits.absence_s
        if self._absent_since is None:
            self._absent_since = now
            log.warning("no vLLM server is left: waiting up to %g s for one to come back", limit)
        elif now - self._absent_since > limit:
            raise EngineError(none_left(self._servers, limit))

    async def _watch(self, server: Server) -> None:
        """Ask a server again and again which weights it has: one that ended or is frozen does not say so itself."""
        while True:
            asked_at = time.monotonic()
            try:
                heard = _Heard(server, asked_at, await server.client.asked_version(), None)
            except EngineError as error:
                heard = _Heard(server, asked_at, "", error)
            self._events.put(heard)
            await asyncio.sleep(self._limits.probe_s)
