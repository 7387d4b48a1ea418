"""An HTTP client that reads no more of an answer than it may, whatever its status and however it is compressed."""

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
# What described the body as it was sent; the response that is handed on holds it decompressed and whole.
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")


class OversizedAnswerError(Exception):
    """An answer had more bytes than it may have; the rest of it was not read."""


class _CountedStream(httpx2.AsyncByteStream):
    """A body as it comes over the wire, ended at the first byte too many."""

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
    """The most bytes of a body."""

    max_bytes: int

    def check(self, total: int) -> None:
        """Raise OversizedAnswerError where there are more."""
        if total > self.max_bytes:
            raise OversizedAnswerError(f"its answer has more than {self.max_bytes:,} bytes")


def tls_context(trust_env: bool = True) -> ssl.SSLContext:
    """Return httpx2's default TLS context, the same one for all clients; certificates are read once in a process.

    Args:
        trust_env: take the certificates that SSL_CERT_FILE or SSL_CERT_DIR names, where they are set.

    Raises:
        ConfigError: those cannot be read.
    """
    paths = tuple((name, os.environ.get(name)) for name in CERTIFICATE_ENVS) if trust_env else ()
    try:
        return _tls_context(trust_env, paths)
    except OSError as error:
        named = next((f"{name}={path}" for name, path in paths if path), None)  # the first that is set is read
        if named is None:
            raise
        raise ConfigError(
            f"the certificates of {named} cannot be read ({error}); expected a file in PEM format, or a folder of them; "
            "correct the variable or unset it"
        ) from error


@functools.cache
def _tls_context(trust_env: bool, paths: tuple[tuple[str, str | None], ...]) -> ssl.SSLContext:
    """Build a context for each value of the variables that httpx2 reads for it."""
    return httpx2.create_ssl_context(trust_env=trust_env)


class BoundedClient(httpx2.AsyncClient):
    """Reads answers as they come, and closes the connection at the first byte too many.

    Bytes are counted on the wire and after decompression, which httpx2 does in pieces of at most 1 MiB: a body that
    decompresses to a thousand times its size is given up in time, and so is one that decompresses to nothing and never ends.

    All clients share ``tls_context``: it holds 0.35 MB of certificates where Python's garbage collector does not count them.
    Clients of ``openai`` are reference cycles, of which a run gathers dozens, one a round, before a full collection frees
    them.

    Args:
        max_bytes: of a body.
        trust_env: heed the environment: proxies, SSL_CERT_FILE, SSL_CERT_DIR.
        options: of ``httpx2.AsyncClient``.
    """

    def __init__(self, max_bytes: int, *, trust_env: bool = True, **options: Any) -> None:
        super().__init__(verify=tls_context(trust_env), trust_env=trust_env, **options)
        self._limit = ByteLimit(max_bytes)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request and read its whole answer.

        Raises:
            OversizedAnswerError: the answer has more bytes than it may have.
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
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_BODY]
        return httpx2.Response(
            response.status_code,
            headers=headers,
            content=bytes(content),
            request=response.request,
            extensions=response.extensions,
        )
