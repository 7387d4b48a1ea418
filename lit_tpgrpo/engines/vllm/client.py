"""HTTP to one rollout server: each request carries the key, takes a limited time, and fails in words."""

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

FRESH = "default"
"""The version that vLLM gives to weights that nobody sent: those of a server that has just started."""
_CONNECT_S = 10.0
# Shorter than the five seconds of uvicorn: a connection that the server is about to close is not used again.
_KEEPALIVE_S = 3.0
_EXCERPT = 500
MAX_ANSWER_BYTES = 2**29
"""Of one answer: 64 samples of 65,000 tokens with their log-probs are below it."""
_MAX_STATUS_BYTES = 2**20


class ServerLostError(EngineError):
    """A server does not answer: it ended, is frozen, or cannot be reached."""


class ServerRefusedError(EngineError):
    """A server answered with an error.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class LoopThread:
    """An event loop in a thread of its own: the caller may be in a loop already (a notebook), and what is cancelled in this
    one holds up no exit, as a thread in a blocking read would."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout-servers", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let it run; its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result, waited for. Cancelled where the wait is broken off, e.g. by ctrl-C."""
        future = self.start(work)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel what still runs, and end the thread. Safe to call again."""
        if self._loop.is_closed():
            return
        self.run(self._cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @staticmethod
    async def _cancel_others() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class ServerClient:
    """Asks one server, directly (no proxies of the environment) and nowhere else (redirects are not followed).

    Every method raises ``ServerLostError`` where the server does not answer and ``ServerRefusedError`` where it answers
    with an error.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        key: sent with each request.
        key_env: the variable that it is from, for messages.
        loop: where requests run.
        timeout_s: of a request that names none.
        silence_s: of the questions that each server that is there answers soon.
    """

    def __init__(self, url: str, key: str, key_env: str, loop: LoopThread, timeout_s: float, silence_s: float) -> None:
        import httpx2

        from lit_tpgrpo.bounded_http import BoundedClient

        self.base_url = url.rstrip("/")
        self.timeout_s, self.silence_s = timeout_s, silence_s
        self._key_env = key_env
        self._loop = loop
        self._http = BoundedClient(
            MAX_ANSWER_BYTES,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),  # the rest is limited as a whole, below
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE_S),
            follow_redirects=False,
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"ServerClient({self.base_url!r})"

    def ask(self, method: str, path: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        """One request; the JSON of the answer, None for an empty one."""
        return self._loop.run(self.asked(method, path, timeout_s, **arguments))

    async def asked(self, method: str, path: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        """``ask``, in the loop."""
        import httpx2

        from lit_tpgrpo.bounded_http import OversizedAnswerError

        limit = self.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit):
                answer = await self._http.request(method, f"{self.base_url}/{path}", **arguments)
        except TimeoutError:
            raise ServerLostError(f"the vLLM server {self.base_url} did not answer {path} in {limit:g} s") from None
        except (httpx2.HTTPError, OversizedAnswerError) as error:
            words = str(error) or type(error).__name__
            failure = ServerLostError(f"the vLLM server {self.base_url} did not answer {path}: {words}")
        else:
            return self._read(answer, path)
        # Out of the except block: as a context, the client's error would carry the request with the key in its headers.
        raise failure

    def _read(self, answer: Any, path: str) -> Any:
        status = answer.status_code
        if answer.is_success:
            with suppress(ValueError, RecursionError):
                return answer.json() if answer.content else None
            raise ServerRefusedError(f"the vLLM server {self.base_url} answered {path} with something not JSON", status)
        if status == 404:
            raise ServerRefusedError(
                f"the vLLM server {self.base_url} has no route /{path}: start it with "
                "`python -m lit_tpgrpo.serve MODEL`, which opens the routes that training needs",
                status,
            )
        words = " ".join(redacted_message(answer.text).split())[
            :_EXCERPT
        ]  # cleaned first: a cut could leave half of a key
        remedy = f"; it was started with another key than {self._key_env} holds here" if status == 401 else ""
        raise ServerRefusedError(
            f"the vLLM server {self.base_url} refused {path} ({status}): {words}{remedy}",
            status,
        )

    def field(self, answer: Any, *path: str | int) -> Any:
        """Part of an answer, by names and places.

        Raises:
            ServerRefusedError: it is not there.
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
        """What a request without the key is answered with."""
        import httpx2

        from lit_tpgrpo.bounded_http import BoundedClient, OversizedAnswerError

        try:
            stranger = BoundedClient(_MAX_STATUS_BYTES, trust_env=False, timeout=None)
            async with asyncio.timeout(self.silence_s), stranger:
                return (await stranger.get(f"{self.base_url}/{path}")).status_code
        except (TimeoutError, httpx2.HTTPError, OversizedAnswerError) as error:
            raise ServerLostError(
                f"the vLLM server {self.base_url} did not answer: {error or type(error).__name__}"
            ) from None

    def check_guarded(self) -> None:
        """Refuse a server whose weights anyone who reaches it could replace.

        Raises:
            EngineError: it answers without a key.
        """
        if self._loop.run(self.anonymous_status("weight_info")) != 401:
            raise EngineError(
                f"the vLLM server {self.base_url} answers without a key, so that whoever reaches it could replace its weights; "
                "start it with `python -m lit_tpgrpo.serve`"
            )

    @property
    def weight_version(self) -> str:
        return self._loop.run(self.asked_version())

    async def asked_version(self) -> str:
        """Of the weights it has. Its engine answers this between two steps, so one that is stuck does not."""
        return str(self.field(await self.asked("GET", "weight_info", self.silence_s), "weight_version"))

    @property
    def n_workers(self) -> int:
        return int(self.field(self.ask("GET", "get_world_size"), "world_size"))

    def empty_prefix_cache(self) -> None:
        """Drop what was computed with the weights of before."""
        if not self.field(self.ask("POST", "reset_prefix_cache"), "success"):
            raise EngineError(
                f"the vLLM server {self.base_url} could not empty its prefix cache, for requests are still running on it: is "
                "another program using it?"
            )

    async def abort(self, request_ids: list[str]) -> None:
        """End requests that nobody waits for any more."""
        ids = [f"generate-tokens-{name}" for name in request_ids]
        await self.asked("POST", "inference/v1/abort_requests", self.courtesy_s, json={"request_ids": ids})

    @property
    def courtesy_s(self) -> float:
        """How long a request may take that helps the server alone: a frozen one must not hold up the end of a run."""
        return min(self.silence_s, _CONNECT_S)

    def close(self) -> None:
        """Close its connections."""
        self._loop.run(self._http.aclose())


def key_from(variable: str) -> str:
    """The key that an environment variable holds.

    Raises:
        ConfigError: it holds none that can be used.
    """
    return checked_key(read_key(variable), variable)


def checked_address(url: str, key_env: str) -> str:
    """A server's address, without a slash at its end. Messages quote no part that can hold a password.

    Raises:
        ConfigError: it is none, or the key in ``key_env`` must not go there, see ``lit_tpgrpo.api_keys``.
    """
    try:
        parts = urlsplit(url.strip().rstrip("/"))
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable, parts = False, None
    if parts is None or not usable or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            "VLLMServer: each of urls must look like http://127.0.0.1:8000, without user, password or query; "
            f"got {'one that holds them' if '@' in url else repr(url)}"
        )
    check_key_env(key_env, parts.hostname or "", "VLLMServer")
    return parts.geturl()
