"""Problems from a file: JSON lines, JSON, CSV or Parquet, told apart by the file's extension."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.sources.base import Fields
from lit_tpgrpo.datamodules.sources.formats import data_stem, find_reader, known_extensions
from lit_tpgrpo.datamodules.sources.reading import OnDuplicate, OnMalformed, RowSource, resolve_format
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.text.answers import AnswerForm


@checked_arguments()
class FileProblems(RowSource):
    """Problems from one file.

    ``.jsonl`` and ``.ndjson`` hold one object a line (blank lines are passed over), ``.json`` one list of objects, ``.csv``
    and ``.tsv`` a table whose first row names the columns (all cells are text, empty ones null), ``.parquet`` a table. All
    but the last may be compressed: ``.jsonl.gz``, ``.csv.zst``, ``.json.bz2``.

    Args:
        path: The file; a relative path starts at the working directory.
        preset: Name of a known data set whose columns and answer form the file has (``math500``, ``gsm8k``, ...).
        fields: Which column holds what, in place of the preset's: a FieldMap, or a dict of its arguments.
        answer_form: How the answer is written (one form, or one for each answer column), in place of the preset's.
        strip_suffixes: Texts to take off the end of each prompt, in place of the preset's: instructions that the file
            repeats but that are no part of the problem.
        on_malformed: ``stop`` raises with a list of the malformed rows, ``skip`` warns and leaves them out.
        limit: Take only the first so many problems.
        name: What uids begin with and ``Problem.source`` says; the preset's name or the file's stem by default.
        on_duplicate: what becomes of a statement that an earlier row has: ``keep`` it, with a warning that counts them;
            ``drop`` it, with the same warning; ``stop`` with an error.
    """

    def __init__(
        self,
        path: str | Path,
        preset: str | None = None,
        fields: Fields | None = None,
        answer_form: AnswerForm | dict[str, AnswerForm] | None = None,
        strip_suffixes: Sequence[str] | None = None,
        on_malformed: OnMalformed = "stop",
        limit: int | None = None,
        name: str | None = None,
        on_duplicate: OnDuplicate = "keep",
    ) -> None:
        self.path = Path(path).expanduser()
        row_format = resolve_format(preset, fields, answer_form, strip_suffixes)
        super().__init__(name or preset or data_stem(self.path), row_format, on_malformed, limit, on_duplicate)

    def _rows(self) -> Iterator[tuple[str, Any]]:
        reader = find_reader(self.path)
        if reader is None:
            raise InputError(
                f"{self.path}: expected a file ending in {known_extensions()}, got {''.join(self.path.suffixes) or 'none'!r}. "
                f"The extension tells how the file is read: convert or rename it."
            )
        if not self.path.is_file():
            raise InputError(_missing(self.path))
        try:
            yield from reader(self.path)
        except OSError as error:
            raise InputError(
                f"{self.path}: expected a whole {''.join(self.path.suffixes)} file that may be read, but {error}"
            ) from error

    def _described(self) -> str:
        return str(self.path)


def _missing(path: Path) -> str:
    """What is wrong with a path that is no file, and what lies near it."""
    if path.is_dir():
        return f"{path}: expected a file, got a folder. Name one file in it, or read the folder with HubProblems."
    folder = path.parent
    if not folder.is_dir():
        return (
            f"{path}: expected a file, but there is no folder {folder.resolve()}. Relative paths start at {Path.cwd()}."
        )
    candidates = sorted(entry.name for entry in folder.iterdir() if find_reader(entry) is not None)
    near = difflib.get_close_matches(path.name, candidates, n=3, cutoff=0.5) or candidates[:5]
    hint = f"Did you mean {' or '.join(near)}?" if near else "That folder holds no problem files."
    return f"{path}: expected a file, but {folder.resolve()} has none of that name. {hint}"
