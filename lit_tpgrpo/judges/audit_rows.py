"""Reading the rows of audit sets: malformed ones stop the reading or are counted, uids become unique."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.judges.error_detection import WrongSteps
from lit_tpgrpo.judges.labelled_chains import LabelledChain

OnMalformed = Literal["stop", "skip"]
Rows = Iterator[tuple[str, Any]]
R = TypeVar("R", WrongSteps, LabelledChain)
_SHOWN = 3


def read_records(
    path: Path, rows: Rows, convert: Callable[[Any], R], on_malformed: OnMalformed, limit: int | None
) -> tuple[list[R], Counter[str]]:
    """Convert rows up to ``limit``; return records with unique uids, and why rows were left out, with counts.

    Raises:
        InputError: no row is usable, or rows are malformed (``stop``); it names the first few of them.
    """
    records: list[R] = []
    malformed: list[tuple[str, str]] = []
    for where, row in rows:
        if len(records) == limit:
            break
        try:
            records.append(_converted(row, convert))
        except InputError as error:
            malformed.append((where, str(error)))
    listed = "; ".join(f"{where}: {reason}" for where, reason in malformed[:_SHOWN])
    summary = f"{path}: {len(malformed)} of {len(records) + len(malformed)} rows read are malformed: {listed}"
    if len(malformed) > _SHOWN:
        summary += f"; and {len(malformed) - _SHOWN} more"
    if not records:
        raise InputError(
            f"{summary}. No usable row is left: is it the right file for this data?"
            if malformed
            else f"{path}: expected at least one row, got none. Is it the right file?"
        )
    if malformed and on_malformed == "stop":
        raise InputError(f"{summary}. Correct them, or leave them out with on_malformed: skip.")
    # Replace the numbers, which differ from row to row, to count equal reasons together.
    return _with_unique_uids(records), Counter(re.sub(r"\d+", "N", reason) for _, reason in malformed)


def _converted(row: Any, convert: Callable[[Any], R]) -> R:
    """Convert a row that is a JSON object; a row that could not be decoded is an InputError, raised here."""
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, Mapping):
        raise InputError(f"expected an object with named fields, got {describe(row)}")
    return convert(row)


def _with_unique_uids(records: Sequence[R]) -> list[R]:
    """Return the records with unique problem uids: a repeated uid gets a number as suffix."""
    seen: Counter[str] = Counter()
    unique = []
    for record in records:
        problem = record.case.problem
        seen[problem.uid] += 1
        if seen[problem.uid] > 1:
            problem = replace(problem, uid=f"{problem.uid}-{seen[problem.uid]}")
            solution = replace(record.case.solution, problem_uid=problem.uid)
            record = replace(record, case=replace(record.case, problem=problem, solution=solution))
        unique.append(record)
    return unique


def text_field(row: Mapping[str, Any], column: str) -> str:
    """Return a text of a row, stripped; raise InputError if it is missing or blank."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"expected a text in {column!r}, got {describe(value)}")
    return value.strip()


def texts_field(row: Mapping[str, Any], column: str) -> list[str]:
    """Return a list of texts of a row; raise InputError if it is missing or empty."""
    value = row.get(column)
    if not isinstance(value, list) or not value or not all(isinstance(step, str) for step in value):
        raise InputError(f"expected a list of texts in {column!r}, got {describe(value)}")
    return value


def describe(value: Any) -> str:
    """Return a value and its type for an error message, cut to 80 characters."""
    shown = repr(value)
    return "null" if value is None else f"{shown if len(shown) <= 80 else shown[:80] + '...'} ({type(value).__name__})"


def content_of(path: Path) -> str:
    """Return the text of a file; raise InputError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: expected a file that can be read, got: {error.strerror}. Give another path."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, got another encoding ({error}). Convert the file.") from error


def jsonl_rows(path: Path) -> Rows:
    """Yield ``(line N, value)`` for the lines with content; of a line that is no JSON the value is an InputError."""
    for number, line in enumerate(content_of(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = InputError(f"expected one JSON object, got invalid JSON ({error})")
            yield f"line {number}", row
