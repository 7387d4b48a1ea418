"""Problems from a file: JSONL, JSON or Parquet, told apart by the file's extension."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.datamodules.sources.base import FieldMap
from lit_tpgrpo.datamodules.sources.reading import OnMalformed, RowSource, resolve_format
from lit_tpgrpo.datamodules.sources.rows import RowFault
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.text.answers import AnswerForm

if TYPE_CHECKING:
    from pyarrow import RecordBatch


class FileProblems(RowSource):
    """Problems from one file.

    ``.jsonl`` and ``.ndjson`` hold one object a line (blank lines are passed over), ``.json`` one list of objects,
    ``.parquet`` a table.

    Args:
        path: The file; a relative path starts at the working directory.
        preset: Name of a known data set whose columns and answer form the file has (``math500``, ``gsm8k``, ...).
        fields: Which column holds what, in place of the preset's.
        answer_form: How the answer is written (one form, or one for each answer column), in place of the preset's.
        strip_suffixes: Texts to take off the end of each prompt, in place of the preset's: instructions that the file
            repeats but that are no part of the problem.
        on_malformed: ``stop`` raises with a list of the malformed rows, ``skip`` warns and leaves them out.
        limit: Take only the first so many problems.
        name: What uids begin with and ``Problem.source`` says; the preset's name or the file's stem by default.
    """

    def __init__(
        self,
        path: str | Path,
        preset: str | None = None,
        fields: FieldMap | None = None,
        answer_form: AnswerForm | dict[str, AnswerForm] | None = None,
        strip_suffixes: Sequence[str] | None = None,
        on_malformed: OnMalformed = "stop",
        limit: int | None = None,
        name: str | None = None,
    ) -> None:
        self.path = Path(path)
        row_format = resolve_format(preset, fields, answer_form, strip_suffixes)
        super().__init__(name or preset or self.path.stem, row_format, on_malformed, limit)

    def _rows(self) -> Iterator[tuple[str, Any]]:
        reader = _READERS.get(self.path.suffix.lower())
        if reader is None:
            raise InputError(
                f"{self.path}: expected a file ending in {', '.join(_READERS)}, got "
                f"{self.path.suffix or 'none'!r}. The extension tells how the file is read: convert or rename it."
            )
        if not self.path.is_file():
            raise InputError(_missing(self.path))
        return reader(self.path)

    def _described(self) -> str:
        return str(self.path)


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number}", _decoded(line)


def _decoded(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowFault(f"expected UTF-8, got the byte 0x{line[error.start]:02x} at position {error.start}")
    except json.JSONDecodeError as error:
        return RowFault(f"expected one JSON object, got a text that is no JSON ({error.msg} at column {error.colno})")
    except ValueError as error:  # The interpreter's limit on the digits of an integer.
        return RowFault(f"expected one JSON object, got one with a number that cannot be read ({error})")
    except RecursionError:
        return RowFault("expected one JSON object, got one that is nested too deeply to be read")


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, got another encoding ({error}). Convert the file.") from error
    except json.JSONDecodeError as error:
        hint = " One object a line belongs into a .jsonl file: rename it." if error.msg == "Extra data" else ""
        raise InputError(f"{path}: expected one JSON list of objects, got no valid JSON ({error}).{hint}") from error
    except ValueError as error:
        raise InputError(
            f"{path}: expected one JSON list of objects, got a number that cannot be read ({error}). Write it as text, or "
            f"one object a line into a .jsonl file, where on_malformed: skip can leave out its row."
        ) from error
    except RecursionError as error:
        raise InputError(
            f"{path}: expected one JSON list of objects, got a value that is nested too deeply to be read. Take it out, or "
            f"write one object a line into a .jsonl file, where on_malformed: skip can leave out its row."
        ) from error
    if not isinstance(rows, list):
        raise InputError(
            f"{path}: expected one JSON list of objects, got {type(rows).__name__} at the top level. Take the list out "
            f"of it, or write one object a line into a .jsonl file."
        )
    return ((f"item {number}", row) for number, row in enumerate(rows, start=1))


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    # Imported here because it takes a third of a second and most runs read JSONL.
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
        if batch.num_rows > 1:  # Only the row that holds the byte is malformed.
            return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]
        return [RowFault(f"expected UTF-8, got the byte 0x{error.object[error.start]:02x}")]


_READERS: MappingProxyType[str, Callable[[Path], Iterator[tuple[str, Any]]]] = MappingProxyType(
    {".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".json": _json_rows, ".parquet": _parquet_rows}
)


def _missing(path: Path) -> str:
    """What is wrong with a path that is no file, and what lies near it."""
    if path.is_dir():
        return f"{path}: expected a file, got a folder. Name one file in it, or read the folder with HubProblems."
    folder = path.parent
    if not folder.is_dir():
        return (
            f"{path}: expected a file, but there is no folder {folder.resolve()}. Relative paths start at {Path.cwd()}."
        )
    candidates = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in _READERS)
    near = difflib.get_close_matches(path.name, candidates, n=3, cutoff=0.5) or candidates[:5]
    hint = f"Did you mean {' or '.join(near)}?" if near else "That folder holds no problem files."
    return f"{path}: expected a file, but {folder.resolve()} has none of that name. {hint}"
