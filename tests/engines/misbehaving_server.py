"""A real HTTP server on the loopback that answers chat requests as badly as it is told to.

Each request is answered by the ``Behaviour`` that a callable chooses: ``behave(request body, number of the request)``.
The constants and functions below make them; ``random_faults`` chooses among them by a seed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

WAIT_S = 300.0
"""Until a condition that does not come true fails a test; only a test that fails waits so long."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """An answer and how it is sent: ``answer`` as it should be, ``refuse`` (the connection closes without one), ``hang``
    (none until the other side or the server closes), ``trickle`` (bytes forever), ``flood`` (``payload`` forever, as fast
    as it is taken), ``cut`` (closed in the middle of the body). ``payload``, where given, is sent in place of the body. In
    the body, ``{authorization}`` becomes what that header of the request said, ``{key}`` the key in it."""

    manner: str = "answer"
    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    payload: bytes = b""


Behave = Callable[[dict[str, Any], int], Behaviour]


def completion(text: str | None, finish_reason: str = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    """The JSON of a chat completion; ``message`` adds fields such as ``reasoning_content``."""
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "judge",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish_reason,
            }
        ],
        "usage": usage or {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def ok(text: str | None, finish_reason: str = "stop", usage: Any = None, **message: Any) -> Behaviour:
    """An answer with this text: a verdict, prose, cut JSON, the answer to another request, ..."""
    return raw(completion(text, finish_reason, usage, **message))


def raw(body: Any) -> Behaviour:
    """Status 200 with any JSON."""
    return Behaviour(body=json.dumps(body))


def failure(status: int, message: str = "it went wrong", headers: Mapping[str, str] | None = None, **error: Any):
    """An error in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": None, **error}})
    return Behaviour(status=status, body=body, headers=headers or {})


def rate_limit(seconds: float | None = None, date: str | None = None, ms: float | None = None) -> Behaviour:
    """429 that asks for a pause in one of the three ways, or in none."""
    headers = {} if seconds is None and date is None else {"Retry-After": date or f"{seconds:g}"}
    return failure(429, "slow down", headers if ms is None else {**headers, "Retry-After-Ms": f"{ms:g}"})


def server_error(status: int = 500, seconds: float | None = None) -> Behaviour:
    return failure(status, headers={} if seconds is None else {"Retry-After": f"{seconds:g}"})


REFUSE = Behaviour("refuse")
HANG = Behaviour("hang")
TRICKLE = Behaviour("trickle")
FLOOD = Behaviour("flood", payload=b" " * 65536)
CUT = Behaviour("cut", body=json.dumps(completion("never whole")))
BAD_GATEWAY = Behaviour(status=502, body="<html><h1>502 Bad Gateway</h1></html>", content_type="text/html")
HTML_200 = Behaviour(body="<html>Please log in</html>", content_type="text/html")
NO_CHOICES = raw({"id": "x", "object": "chat.completion", "choices": []})
EMPTY_CONTENT = ok("")
UNAUTHORIZED = failure(401, "wrong key in header {authorization}")
NOT_FOUND = failure(404, "no such model")
TOO_LONG = failure(400, "maximum context length is 4096 tokens", code="context_length_exceeded")
PASSING: tuple[Behaviour, ...] = (
    REFUSE,
    TRICKLE,
    HANG,
    CUT,
    BAD_GATEWAY,
    HTML_200,
    NO_CHOICES,
    rate_limit(seconds=0),
    rate_limit(ms=1),
    server_error(500),
    server_error(503, seconds=0),
)
"""Faults that may pass if the request is sent again."""


def random_faults(seed: int, share: float, answer: Behave, faults: Sequence[Behaviour] = PASSING) -> Behave:
    """Fails ``share`` of the requests with one of ``faults`` and answers the others.

    What happens depends on the seed, the body and how often that body came, not on the order of requests in flight.
    """
    seen: Counter[str] = Counter()

    def behave(body: dict[str, Any], number: int) -> Behaviour:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        seen[digest] += 1
        draw = random.Random(f"{seed}:{digest}:{seen[digest]}")
        return draw.choice(faults) if draw.random() < share else answer(body, number)

    return behave


class MisbehavingServer:
    """Runs in a thread of its own while the ``with`` block lasts; leaving it closes every connection.

    Attributes:
        base_url: address for a client, with ``/v1``.
        bodies: the JSON of each request, in the order they came.
        paths: their paths.
        connections: how many are open now.
        most_connections: how many were open at a time.
        flooded: bytes of floods that were sent.
    """

    def __init__(self, behave: Behave) -> None:
        self._behave = behave
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.connections = self.most_connections = self.flooded = 0
        self.base_url = ""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="misbehaving-server")

    @property
    def requests(self) -> int:
        return len(self.bodies)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(lambda: bool(self.base_url))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until the condition, asked whenever a connection or a request comes or goes, is true."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), "what the test waits for never happened"

    def _note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self.most_connections = max(self.most_connections, self.connections)
            self._changed.notify_all()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self._note(lambda: setattr(self, "base_url", f"http://127.0.0.1:{port}/v1"))
        await self._ended.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._note(lambda: setattr(self, "connections", self.connections + 1))
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.transport.abort()
            self._note(lambda: setattr(self, "connections", self.connections - 1))

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        body: dict[str, Any] = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        number = self.requests
        self._note(lambda: (self.bodies.append(body), self.paths.append(head[0].split()[1])))
        behaviour = self._behave(body, number)
        if behaviour.manner == "hang":
            await reader.read()  # until the other side closes
        if behaviour.manner in ("refuse", "hang"):
            return False
        said = headers.get("authorization", "nothing")
        if behaviour.content_type == "application/json":
            said = json.dumps(said)[1:-1]
        echoed = behaviour.body.replace("{authorization}", said).replace("{key}", said.removeprefix("Bearer "))
        payload = behaviour.payload or echoed.encode()
        fields = {"Content-Type": behaviour.content_type, "Content-Length": str(len(payload)), **behaviour.headers}
        if behaviour.manner == "trickle":
            fields["Content-Length"] = "1000000000"
        lines = [f"HTTP/1.1 {behaviour.status} Status", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        if behaviour.manner == "flood":  # chunked, so that it has no length
            lines = [line for line in lines if not line.startswith("Content-Length")]
            lines.insert(1, "Transfer-Encoding: chunked")
        writer.write("\r\n".join(lines).encode())
        while behaviour.manner == "flood":
            writer.write(b"%x\r\n%b\r\n" % (len(payload), payload))
            self.flooded += len(payload)
            await writer.drain()
        if behaviour.manner == "trickle":
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)  # the misbehaviour itself: never silent long enough for a read timeout
        writer.write(payload if behaviour.manner == "answer" else payload[: len(payload) // 2])
        await writer.drain()
        if behaviour.manner == "cut":
            writer.close()  # what was written still arrives, and then the end
            await writer.wait_closed()
        return behaviour.manner == "answer"
