"""Readers of file formats: JSON Lines, a JSON list, CSV and TSV, Parquet; the text formats also compressed.

Each reader yields ``(where, row)``; a row that cannot be decoded is yielded as a ``RowFault``.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, cast

from lit_tpgrpo.datamodules.sources.rows import RowFault
from lit_tpgrpo.errors import InputError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

Rows = Iterator[tuple[str, Any]]
_BOM_AND_SPACE = b"\xef\xbb\xbf \t\r\n"
_COMPRESSIONS = (".gz", ".bz2", ".zst")


def find_reader(path: Path) -> Callable[[Path], Rows] | None:
    """Return the reader for the file's extension, None if there is none."""
    name = path.with_suffix("") if path.suffix.lower() in _COMPRESSIONS else path
    extension = name.suffix.lower()
    return None if name is not path and extension not in _TEXT_READERS else _READERS.get(extension)


def data_stem(path: Path) -> str:
    """Return the file's name without the extensions of format and compression: ``train`` for ``train.jsonl.gz``."""
    return (path.with_suffix("") if path.suffix.lower() in _COMPRESSIONS else path).stem


def known_extensions() -> str:
    """Return the supported extensions as text, for messages."""
    text = ", ".join(_TEXT_READERS)
    return f"{text} (each also with {', '.join(_COMPRESSIONS[:-1])} or {_COMPRESSIONS[-1]} after it) or .parquet"


def _opened(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed."""
    if path.suffix.lower() not in _COMPRESSIONS:
        return path.open("rb")
    # Imported here because it takes a third of a second and most runs read JSONL.
    import pyarrow as pa

    return io.BufferedReader(cast(io.RawIOBase, pa.input_stream(str(path), compression="detect")))


def _jsonl_rows(path: Path) -> Rows:
    with _opened(path) as lines:
        nonblank = ((number, line) for number, line in enumerate(lines, start=1) if line.strip(_BOM_AND_SPACE))
        for position, (number, line) in enumerate(nonblank):
            # A JSON list of objects with the wrong extension, on one line or several.
            if position == 0 and line.lstrip(_BOM_AND_SPACE).startswith(b"["):
                listed = _listed(path)
                if listed is not None:
                    yield from listed
                    return
            yield f"line {number}", _decoded(line)


def _listed(path: Path) -> Rows | None:
    """Return the items of a file that is one JSON list of objects; None for any other file."""
    try:
        rows = _loaded(path)
    except InputError:
        return None
    return _items(rows) if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows) else None


def _decoded(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowFault(f"expected UTF-8, got the byte 0x{line[error.start]:02x} at position {error.start}")
    except json.JSONDecodeError as error:
        return RowFault(f"expected one JSON object, got invalid JSON ({error.msg} at column {error.colno})")
    except ValueError as error:  # Python's limit on the digits of an integer
        return RowFault(f"expected one JSON object, got one with a number that cannot be read ({error})")
    except RecursionError:
        return RowFault("expected one JSON object, got one that is nested too deeply to be read")


def _json_rows(path: Path) -> Rows:
    rows = _loaded(path)
    if not isinstance(rows, list):
        raise InputError(
            f"{path}: expected one JSON list of objects, got {type(rows).__name__} at the top level. Extract the list from "
            f"it, or write one object per line to a .jsonl file."
        )
    return _items(rows)


def _items(rows: list[Any]) -> Rows:
    return ((f"item {number}", row) for number, row in enumerate(rows, start=1))


def _loaded(path: Path) -> Any:
    try:
        with _opened(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, got another encoding ({error}). Convert the file.") from error
    except json.JSONDecodeError as error:
        hint = (
            " A file with one object per line needs the extension .jsonl: rename it."
            if error.msg == "Extra data"
            else ""
        )
        raise InputError(f"{path}: expected one JSON list of objects, got invalid JSON ({error}).{hint}") from error
    except ValueError as error:
        raise InputError(
            f"{path}: expected one JSON list of objects, got a number that cannot be read ({error}). Write it as text, or "
            f"write one object per line to a .jsonl file, where on_malformed: skip can skip its row."
        ) from error
    except RecursionError as error:
        raise InputError(
            f"{path}: expected one JSON list of objects, got a value that is nested too deeply to be read. Remove it, or "
            f"write one object per line to a .jsonl file, where on_malformed: skip can skip its row."
        ) from error


def _csv_rows(path: Path) -> Rows:
    yield from _separated_rows(path, ",")


def _tsv_rows(path: Path) -> Rows:
    yield from _separated_rows(path, "\t")


def _separated_rows(path: Path, delimiter: str) -> Rows:
    """Yield one object per row, with the names in the first row as keys; an empty cell is null, all others are text."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default limit is 131,072 characters
    # Bytes that are not UTF-8 are decoded to lone surrogates, so that only their row is malformed.
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # After an unclosed quote the rest of the file is one cell: there is no next row to continue with.
                raise InputError(
                    f"{path}: line {reader.line_num}: expected cells separated by {delimiter!r}, quotes closed and those "
                    f"in a quoted cell doubled; got {error}. Write the table with a CSV library."
                ) from error
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(cells, path)
            else:
                yield f"line {reader.line_num}", _named(header, cells)


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise InputError(f"{path}: expected a first row with a different name for each column, got {repeated} twice")
    other = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise InputError(
            f"{path}: expected columns separated by commas, got a first row separated by {other!r}: {names[0]}. Write the "
            f"table with commas, or with tabs to a .tsv file."
        )
    return names


def _named(header: list[str], cells: list[str]) -> dict[str, str | None] | RowFault:
    if len(cells) != len(header):
        return RowFault(f"expected {len(header)} cells as in the first row, got {len(cells)}")
    for name, cell in zip(header, cells, strict=True):
        odd = next((c for c in cell if "\udc80" <= c <= "\udcff"), None)
        if odd is not None:
            return RowFault(f"expected UTF-8, got the byte 0x{ord(odd) - 0xDC00:02x} in {name!r}")
    return {name: cell if cell.strip() else None for name, cell in zip(header, cells, strict=True)}


def _parquet_rows(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches()
        rows = (row for batch in batches for row in _batch_rows(batch))
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: expected a Parquet file, got one that cannot be read as such ({error})") from error


def _batch_rows(batch: RecordBatch) -> list[Any]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows > 1:  # only the row with the invalid byte is malformed
            return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]
        return [RowFault(f"expected UTF-8, got the byte 0x{error.object[error.start]:02x}")]


_TEXT_READERS: MappingProxyType[str, Callable[[Path], Rows]] = MappingProxyType(
    {".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".tsv": _tsv_rows}
)
_READERS: MappingProxyType[str, Callable[[Path], Rows]] = MappingProxyType({**_TEXT_READERS, ".parquet": _parquet_rows})
