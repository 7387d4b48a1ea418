"""HTTP client of one rollout server: every request has the key, a timeout, and a clear error message."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lit_tpgrpo.api_keys import check_key_env, read_key
from lit_tpgrpo.engines.vllm.guard import checked_key
from lit_tpgrpo.errors import ConfigError, EngineError
from lit_tpgrpo.redaction import redacted_message

T = TypeVar("T")

INITIAL_VERSION = "default"
"""The version that vLLM gives to the weights of a server before the first update."""
_CONNECT_S = 10.0
# Shorter than the five seconds of uvicorn, so that no request uses a connection that the server is closing.
_KEEPALIVE_S = 3.0
_EXCERPT = 500
MAX_ANSWER_BYTES = 2**29
"""Most bytes of one response: 64 samples of 65,000 tokens with their log-probs need less."""
_MAX_STATUS_BYTES = 2**20


class ServerLostError(EngineError):
    """A server does not answer: it has stopped, hangs, or is unreachable."""


class ServerRefusedError(EngineError):
    """A server answered with an error.

    Attributes:
        status: HTTP status code.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class EventLoopThread:
    """An event loop in a background thread.

    The caller may already be inside an event loop (a notebook). Cancelled tasks do not delay the exit of the process, as a
    thread in a blocking read would.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout-servers", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Schedule a coroutine; return its future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result. It is cancelled if the wait is interrupted, e.g. by ctrl-C."""
        future = self.submit(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel all tasks and join the thread. May be called twice."""
        if self._loop.is_closed():
            return
        self.run(self._cancel_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @staticmethod
    async def _cancel_tasks() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ServerClient:
    """HTTP client of one server. It uses no proxies of the environment and follows no redirects.

    Every method raises ``ServerLostError`` if the server does not answer and ``ServerRefusedError`` if it answers with an
    error.

    Args:
        url: address such as ``http://127.0.0.1:8000``.
        key: API key, sent with each request.
        key_env: environment variable of the key, for messages.
        loop: event loop of the requests.
        timeout_s: default timeout of a request.
        silence_s: timeout of short status requests.
    """

    def __init__(
        self, url: str, key: str, key_env: str, loop: EventLoopThread, timeout_s: float, silence_s: float
    ) -> None:
        import httpx2

        from lit_tpgrpo.bounded_http import BoundedClient

        self.base_url = url.rstrip("/")
        self.timeout_s, self.silence_s = timeout_s, silence_s
        self._key_env = key_env
        self._loop = loop
        self._http = BoundedClient(
            MAX_ANSWER_BYTES,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),  # ``ask_async`` limits the request as a whole
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE_S),
            follow_redirects=False,
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"ServerClient({self.base_url!r})"

    def ask(self, method: str, path: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Send one request; return the parsed JSON of the response, None if it is empty."""
        return self._loop.run(self.ask_async(method, path, timeout_s, **arguments))

    async def ask_async(self, method: str, path: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Send one request like ``ask``, as a coroutine in the loop."""
        import httpx2

        from lit_tpgrpo.bounded_http import OversizedAnswerError

        limit = self.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit):
                answer = await self._http.request(method, f"{self.base_url}/{path}", **arguments)
        except TimeoutError:
            raise ServerLostError(f"the vLLM server {self.base_url} did not answer {path} in {limit:g} s") from None
        except (httpx2.HTTPError, OversizedAnswerError) as error:
            detail = str(error) or type(error).__name__
            failure = ServerLostError(f"the vLLM server {self.base_url} did not answer {path}: {detail}")
        else:
            return self._read(answer, path)
        # Outside the except block: the client's error, as context, would hold the request with the key in its headers.
        raise failure

    def _read(self, answer: Any, path: str) -> Any:
        status = answer.status_code
        if answer.is_success:
            with suppress(ValueError, RecursionError):
                return answer.json() if answer.content else None
            raise ServerRefusedError(f"the vLLM server {self.base_url} answered {path} with invalid JSON", status)
        if status == 404:
            raise ServerRefusedError(
                f"the vLLM server {self.base_url} has no route /{path}: start it with "
                "`python -m lit_tpgrpo.serve MODEL`, which opens the routes that training needs",
                status,
            )
        # Redacted before it is cut: half a key could remain.
        detail = " ".join(redacted_message(answer.text).split())[:_EXCERPT]
        remedy = f"; it was started with another key than the one in {self._key_env} here" if status == 401 else ""
        raise ServerRefusedError(
            f"the vLLM server {self.base_url} refused {path} ({status}): {detail}{remedy}",
            status,
        )

    def field(self, answer: Any, *path: str | int) -> Any:
        """Return part of a JSON response, by keys and indices.

        Raises:
            ServerRefusedError: the response has no such part.
        """
        try:
            for name in path:
                answer = answer[name]
        except (LookupError, TypeError) as error:
            raise ServerRefusedError(
                f"the vLLM server {self.base_url} answered without {path[-1]}: does another program answer there?", 200
            ) from error
        return answer

    async def anonymous_status(self, path: str) -> int:
        """Return the HTTP status of a request without the key."""
        import httpx2

        from lit_tpgrpo.bounded_http import BoundedClient, OversizedAnswerError

        try:
            anonymous = BoundedClient(_MAX_STATUS_BYTES, trust_env=False, timeout=None)
            async with asyncio.timeout(self.silence_s), anonymous:
                return (await anonymous.get(f"{self.base_url}/{path}")).status_code
        except (TimeoutError, httpx2.HTTPError, OversizedAnswerError) as error:
            raise ServerLostError(
                f"the vLLM server {self.base_url} did not answer: {error or type(error).__name__}"
            ) from None

    def check_requires_key(self) -> None:
        """Check that the server requires the key; otherwise anyone who can reach it could replace its weights.

        Raises:
            EngineError: it answers without a key.
        """
        if self._loop.run(self.anonymous_status("weight_info")) != 401:
            raise EngineError(
                f"the vLLM server {self.base_url} answers without a key, so that anyone who can reach it could replace its "
                "weights; start it with `python -m lit_tpgrpo.serve`"
            )

    @property
    def weight_version(self) -> str:
        """Version of the server's weights."""
        return self._loop.run(self.fetch_weight_version())

    async def fetch_weight_version(self) -> str:
        """Fetch the version of the server's weights. Its engine answers between two steps, so a hung one does not."""
        return str(self.field(await self.ask_async("GET", "weight_info", self.silence_s), "weight_version"))

    @property
    def n_workers(self) -> int:
        """Number of the server's workers."""
        return int(self.field(self.ask("GET", "get_world_size"), "world_size"))

    def reset_prefix_cache(self) -> None:
        """Invalidate the KV cache that was computed with the previous weights.

        Raises:
            EngineError: requests are still running on the server.
        """
        if not self.field(self.ask("POST", "reset_prefix_cache"), "success"):
            raise EngineError(
                f"the vLLM server {self.base_url} could not reset its prefix cache, because requests are still running on it: "
                "is another program using it?"
            )

    async def abort(self, request_ids: list[str]) -> None:
        """Abort requests whose results are no longer needed."""
        ids = [f"generate-tokens-{name}" for name in request_ids]
        await self.ask_async("POST", "inference/v1/abort_requests", self.cleanup_timeout_s, json={"request_ids": ids})

    @property
    def cleanup_timeout_s(self) -> float:
        """Timeout of cleanup requests, in seconds: a hung server must not delay the end of a run."""
        return min(self.silence_s, _CONNECT_S)

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._http.aclose())


def read_server_key(variable: str) -> str:
    """Return the key in an environment variable.

    Raises:
        ConfigError: there is no valid key.
    """
    return checked_key(read_key(variable), variable)


def checked_address(url: str, key_env: str) -> str:
    """Validate a server's address and return it without a trailing slash. Messages quote no part that may be a password.

    Raises:
        ConfigError: it is invalid, or the key in ``key_env`` must not be sent there, see ``lit_tpgrpo.api_keys``.
    """
    try:
        parts = urlsplit(url.strip().rstrip("/"))
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable, parts = False, None
    if parts is None or not usable or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            "VLLMServer: each of urls must look like http://127.0.0.1:8000, without user, password or query; "
            f"got {'one with some of these' if '@' in url else repr(url)}"
        )
    check_key_env(key_env, parts.hostname or "", "VLLMServer")
    return parts.geturl()
