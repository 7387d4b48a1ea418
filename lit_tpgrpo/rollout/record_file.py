"""Append-only files of arrays that survive a crash: an Arrow stream, and beside it one JSON line for each of its records.

``NAME.arrows`` is a stream of Arrow's IPC format, which any Arrow library opens: one record batch for each append, compressed
with LZ4. ``NAME.jsonl`` says of each batch where it lies, its CRC-32, and what it is found by. The line is written last: what
has no whole line was cut short by a crash. It is not read, and the next append cuts it off, so that the stream stays one.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import ipc

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.jsonl import append_line, numbered_lines

log = logging.getLogger(__name__)

T = TypeVar("T")

# Without threads: a pool of them would wait beside those of the trainer. LZ4 takes and gives GB/s, Zstandard a third of it.
_WRITE = ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ = ipc.IpcReadOptions(use_threads=False)
_END_OF_STREAM = 8  # bytes of the mark that a closed stream ends with; ours stay open


class RecordFile:
    """Append record batches of one schema to a pair of files, and read those that are whole.

    Args:
        lines: the ``.jsonl`` file; the ``.arrows`` file lies beside it. One process writes them, any number may read.
        schema: of all batches.
    """

    def __init__(self, lines: Path, schema: pa.Schema) -> None:
        self.lines = lines
        self.stream = lines.with_suffix(".arrows")
        self._schema = schema
        self._head = _stream(schema)
        self._size = -1  # of the stream after the last append; another size means that its end has to be looked for

    def append(self, line: Mapping[str, Any], batch: pa.RecordBatch) -> None:
        """Append one batch, found by the plain values of ``line``: after a crash all of it is stored, or none.

        The operating system has the data before this returns, so it survives the process however that ends.

        Raises:
            StorageError: it cannot be written.
        """
        message = _stream(self._schema, batch)[len(self._head) :]
        try:
            with self.stream.open("a+b") as file:
                start = self._end(file.seek(0, 2))
                file.truncate(start)
                if not start:
                    start += file.write(self._head)
                file.write(message)
        except OSError as error:
            raise StorageError(
                f"cannot write to {self.stream} ({error.strerror or error}); its present content is kept. Free space or make "
                "it writable, then resume with --ckpt_path and the run's folder"
            ) from error
        append_line(self.lines, {**line, "at": start, "bytes": len(message), "crc32": zlib.crc32(message)})
        self._size = start + len(message)

    def records(
        self, wanted: Callable[[dict[str, Any]], bool], read: Callable[[pa.RecordBatch], T]
    ) -> Iterator[tuple[dict[str, Any], T]]:
        """Yield the lines that are wanted with what ``read`` makes of their batches, in the order of their appends.

        A line or a batch that is not whole, or that is none of ours, is skipped with a warning.

        Args:
            wanted: whether to read the batch of a line.
            read: converts a batch. Both raise a ``TypeError``, ``ValueError`` or ``LookupError`` for what is none of ours.
        """
        earlier = 0
        for number, line in numbered_lines(self.lines):
            if "at" not in line:
                earlier += 1
                continue
            try:
                if not wanted(line):
                    continue
                content = read(self._batch(line))
            except (TypeError, ValueError, LookupError, AttributeError, pa.ArrowException, OSError) as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                log.warning("%s:%d cannot be read (%s); its content is computed again", self.lines, number, reason)
            else:
                yield line, content
        if earlier:
            log.warning(
                "%d lines of %s are of an earlier version, which kept tokens in them as JSON; their content is computed again",
                *(earlier, self.lines),
            )

    def _batch(self, line: Mapping[str, Any]) -> pa.RecordBatch:
        at, size, checksum = (line[name] for name in ("at", "bytes", "crc32"))
        if not all(type(number) is int and number >= 0 for number in (at, size, checksum)):
            raise ValueError("at, bytes and crc32 must be whole numbers, not negative")
        with self.stream.open("rb") as file:
            if at + size > file.seek(0, 2):
                raise ValueError(f"{self.stream.name} ends before byte {at + size}")
            file.seek(at)
            message = file.read(size)
        if zlib.crc32(message) != checksum:
            raise ValueError(f"{self.stream.name} is damaged behind byte {at}: another checksum")
        return ipc.open_stream(pa.py_buffer(self._head + message), options=_READ).read_next_batch()

    def _end(self, size: int) -> int:
        """Return where the last whole record of a stream of this size ends; a crash leaves a part of one behind it."""
        if size == self._size:
            return size
        rows = [row for _, row in numbered_lines(self.lines) if type(row.get("at")) is type(row.get("bytes")) is int]
        return max((end for row in rows if 0 < (end := row["at"] + row["bytes"]) <= size), default=0)


def _stream(schema: pa.Schema, *batches: pa.RecordBatch) -> bytes:
    """Return the bytes of an Arrow stream, without the mark of its end."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, schema, options=_WRITE) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()[:-_END_OF_STREAM]
