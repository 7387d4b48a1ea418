"""A faulty judge endpoint on loopback: each prompt has one correct reply, sometimes after a few faults."""

from __future__ import annotations

import asyncio
import json
import multiprocessing as mp
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from aiohttp import web

from benchmarks.instant_verdict import instant_verdict

MAX_IN_A_ROW = 3
"""Maximum number of faults before a prompt is answered, well below the judge's attempts."""
FAULTS = {
    "status 500": 10,
    "status 429": 10,
    "reset": 10,
    "half a body": 10,
    "no JSON": 10,
    "prose": 10,
    "empty reply": 10,
    "cut reply": 10,
    "8 MB of junk": 2,
    "silence": 1,
}
"""Faults instead of a reply, with their relative frequencies."""


class FaultyEndpoint:
    """Handler that injects faults into ``share`` of the requests, at most ``MAX_IN_A_ROW`` in a row for one prompt."""

    def __init__(self, seed: int, share: float, counts: dict[str, Synchronized[int]]) -> None:
        self._random = random.Random(seed)
        self._share = share
        self._counts = counts
        self._in_a_row: Counter[str] = Counter()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["messages"][0]["content"]
        if "response_format" not in body:  # the judge's first request, which checks the connection
            return _completion("OK")
        verdict = json.dumps(instant_verdict(body["response_format"]["json_schema"]["name"], prompt))
        if self._random.random() >= self._share or self._in_a_row[prompt] >= MAX_IN_A_ROW:
            self._in_a_row.pop(prompt, None)
            return _completion(verdict)
        self._in_a_row[prompt] += 1
        (fault,) = self._random.choices(list(FAULTS), list(FAULTS.values()))
        with self._counts[fault].get_lock():
            self._counts[fault].value += 1
        return await _misbehave(fault, request, verdict)


async def _misbehave(fault: str, request: web.Request, verdict: str) -> web.StreamResponse:
    match fault:
        case "status 500":
            return web.Response(status=500, text="the model fell over")
        case "status 429":
            return web.Response(status=429, text="slow down", headers={"Retry-After": "0"})
        case "reset":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        case "half a body":
            response = web.StreamResponse(headers={"Content-Length": "4096", "Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(b'{"id": "0", "choices": [')
            if request.transport is not None:
                request.transport.close()
            return response
        case "no JSON":
            return web.Response(text="<html>bad gateway</html>")
        case "prose":
            return _completion("I think that all of these steps look fine.")
        case "empty reply":
            return _completion("")
        case "cut reply":
            return _completion(verdict[: len(verdict) // 2])
        case "8 MB of junk":
            return web.Response(text="x" * 2**23, content_type="application/json")
        case "silence":
            await asyncio.Event().wait()
    raise AssertionError(fault)


def _completion(content: str) -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    head = {"id": "0", "object": "chat.completion", "created": 0, "model": "soak"}
    return web.json_response({**head, "choices": [choice], "usage": usage})


def _serve(port: Any, seed: int, share: float, counts: dict[str, Synchronized[int]]) -> None:
    async def main() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", FaultyEndpoint(seed, share, counts))
        # A client that disconnects cancels the handler that never replies to it.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def judge_endpoint(seed: int, share: float) -> Iterator[tuple[str, dict[str, Synchronized[int]]]]:
    """Serve in a separate process; yield the base URL and the counters of faults."""
    spawn = mp.get_context("spawn")
    counts: dict[str, Synchronized[int]] = {fault: spawn.Value("i", 0) for fault in FAULTS}
    receiver, sender = mp.Pipe()
    server = spawn.Process(target=_serve, args=(sender, seed, share, counts), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}/v1", counts
    finally:
        server.kill()
        server.join()
