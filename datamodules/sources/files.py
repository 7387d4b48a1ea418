"""Problems from a file: JSON Lines, JSON, CSV or Parquet, by the file's extension."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.sources.formats import data_stem, find_reader, known_extensions
from lit_tpgrpo.datamodules.sources.reading import RowSource
from lit_tpgrpo.errors import InputError


@checked_arguments()
class FileProblems(RowSource):
    """Problems from one file.

    ``.jsonl`` and ``.ndjson`` have one object per line (blank lines are skipped), ``.json`` one list of objects, ``.csv`` and
    ``.tsv`` a table whose first row names the columns (all cells are text, empty ones null), ``.parquet`` a table. All but
    the last may be compressed: ``.jsonl.gz``, ``.csv.zst``, ``.json.bz2``.

    Args:
        path: The file; a relative path starts at the working directory.
        kwargs: Arguments of ``RowSource``: ``preset``, ``columns``, ``answer_form``, ...; uids begin with the file's stem if
            neither ``name`` nor ``preset`` is given.
    """

    def __init__(self, path: str | Path, **kwargs: Any) -> None:
        self.path = Path(path).expanduser()
        super().__init__(**kwargs)

    def _default_name(self) -> str:
        return data_stem(self.path)

    def _rows(self) -> Iterator[tuple[str, Any]]:
        reader = find_reader(self.path)
        if reader is None:
            raise InputError(
                f"{self.path}: expected a file ending in {known_extensions()}, got {''.join(self.path.suffixes) or 'none'!r}. "
                f"The extension determines how the file is read: convert or rename it."
            )
        if not self.path.is_file():
            raise InputError(_missing(self.path))
        try:
            yield from reader(self.path)
        except OSError as error:
            raise InputError(
                f"{self.path}: expected a complete, readable {''.join(self.path.suffixes)} file, but {error}"
            ) from error

    def _described(self) -> str:
        return str(self.path)


def _missing(path: Path) -> str:
    """Return the error message for a path that is not a file, with similar names in its folder."""
    if path.is_dir():
        return f"{path}: expected a file, got a folder. Name one file in it, or read the folder with HubProblems."
    folder = path.parent
    if not folder.is_dir():
        return (
            f"{path}: expected a file, but there is no folder {folder.resolve()}. Relative paths start at {Path.cwd()}."
        )
    candidates = sorted(entry.name for entry in folder.iterdir() if find_reader(entry) is not None)
    near = difflib.get_close_matches(path.name, candidates, n=3, cutoff=0.5) or candidates[:5]
    hint = f"Did you mean {' or '.join(near)}?" if near else "That folder contains no problem files."
    return f"{path}: expected a file, but {folder.resolve()} has none of that name. {hint}"
