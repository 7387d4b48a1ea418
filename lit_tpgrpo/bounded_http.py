"""An HTTP client with a limit on the bytes of a response, whatever its status and compression."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx2

from lit_tpgrpo.errors import ConfigError

CERTIFICATE_ENVS = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# These headers describe the body as it was sent; the response that is returned holds it decompressed and complete.
_BODY_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


class OversizedAnswerError(Exception):
    """A response exceeded the byte limit; the rest of it was not read."""


class _CountedStream(httpx2.AsyncByteStream):
    """The body as received, before decompression; raises as soon as it exceeds the limit."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: ByteLimit) -> None:
        self._stream, self._limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = 0
        async for piece in self._stream:
            total += len(piece)
            self._limit.check(total)
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass(frozen=True, slots=True)
class ByteLimit:
    """Maximum number of bytes of a body."""

    max_bytes: int

    def check(self, total: int) -> None:
        """Raise OversizedAnswerError if ``total`` bytes exceed the limit."""
        if total > self.max_bytes:
            raise OversizedAnswerError(f"its answer has more than {self.max_bytes:,} bytes")


def tls_context(trust_env: bool = True) -> ssl.SSLContext:
    """Return httpx2's default TLS context, shared by all clients, so that a process reads certificates once.

    Args:
        trust_env: use the certificates that SSL_CERT_FILE or SSL_CERT_DIR names, if set.

    Raises:
        ConfigError: these certificates cannot be read.
    """
    paths = tuple((name, os.environ.get(name)) for name in CERTIFICATE_ENVS) if trust_env else ()
    try:
        return _tls_context(trust_env, paths)
    except OSError as error:
        setting = next((f"{name}={path}" for name, path in paths if path), None)  # the first that is set is read
        if setting is None:
            raise
        raise ConfigError(
            f"the certificates of {setting} cannot be read ({error}); expected a file in PEM format, or a folder of them; "
            "correct the variable or unset it"
        ) from error


@functools.cache
def _tls_context(trust_env: bool, paths: tuple[tuple[str, str | None], ...]) -> ssl.SSLContext:
    """Build a context, cached by the values of the variables that httpx2 reads for it."""
    return httpx2.create_ssl_context(trust_env=trust_env)


class BoundedClient(httpx2.AsyncClient):
    """Client that reads responses as they arrive and closes the connection when one exceeds ``max_bytes``.

    Bytes are counted both as received and after decompression, which httpx2 does in pieces of at most 1 MiB. So a body that
    decompresses to a thousand times its size is stopped in time, and so is an endless one that decompresses to nothing.

    All clients share ``tls_context``, which holds 0.35 MB of certificates in memory that Python's garbage collector does not
    count: ``openai`` clients are reference cycles, and a run accumulates dozens (one per round) before a full collection
    frees them.

    Args:
        max_bytes: maximum size of a body, as received and after decompression.
        trust_env: read proxies, SSL_CERT_FILE and SSL_CERT_DIR from the environment.
        options: further arguments of ``httpx2.AsyncClient``.
    """

    def __init__(self, max_bytes: int, *, trust_env: bool = True, **options: Any) -> None:
        super().__init__(verify=tls_context(trust_env), trust_env=trust_env, **options)
        self._limit = ByteLimit(max_bytes)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request and read the complete response.

        Raises:
            OversizedAnswerError: the response exceeds ``max_bytes``.
        """
        response = await super().send(request, stream=True, **options)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _CountedStream(response.stream, self._limit)
        content = bytearray()
        try:
            async with aclosing(response.aiter_bytes()) as pieces:
                async for piece in pieces:
                    content += piece
                    self._limit.check(len(content))
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _BODY_HEADERS]
        return httpx2.Response(
            response.status_code,
            headers=headers,
            content=bytes(content),
            request=response.request,
            extensions=response.extensions,
        )
