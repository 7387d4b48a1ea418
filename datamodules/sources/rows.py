"""Conversion of one row of a data set to a ``Problem``, or the reason why the row is malformed."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lit_tpgrpo.datamodules.sources.base import FieldMap, RowFormat
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.text.answers import AnswerForm, normalise_gold
from lit_tpgrpo.verify.choice_text import resolve

_EXCERPT = 80


class RowFault(Exception):
    """A row is malformed, with the reason. Sources catch it: users see InputError or the report of skipped rows."""


def to_problem(row: Any, row_format: RowFormat, source: str, taken: Mapping[str, Problem]) -> Problem:
    """Convert one row. ``taken`` holds the problems so far, by uid.

    Raises:
        RowFault: with what was expected and what the row has.
    """
    try:
        return _converted(row, row_format, source, taken)
    except RecursionError as error:
        raise RowFault("expected texts and numbers, got a list that is nested too deeply to be read") from error


def _converted(row: Any, row_format: RowFormat, source: str, taken: Mapping[str, Problem]) -> Problem:
    if isinstance(row, Problem):
        return _with_free_uid(row, taken)
    if not isinstance(row, Mapping):
        raise RowFault(f"expected an object with named fields, got {_describe(row)}")
    columns = row_format.columns
    prompt, answer = _prompt(row, row_format), _answer(row, row_format)
    if (column := _first(row, columns.options)) is not None:
        prompt, answer = _multiple_choice(row, column, prompt, row_format)
    uid = _uid(row, columns, source, (prompt, answer), taken)
    return Problem(uid, prompt, answer, source, _level(row, columns), _subject(row, columns))


def _with_free_uid(problem: Problem, taken: Mapping[str, Problem]) -> Problem:
    """Check a given problem and return it, with a new uid if the same problem occurs twice."""
    for role in ("uid", "prompt", "answer"):
        value = getattr(problem, role)
        if not isinstance(value, str) or not value.strip():
            raise RowFault(f"expected a Problem whose {role} is a text, got {_describe(value)}")
        _encodable(value, role, role)
    known = taken.get(problem.uid)
    if known is not None and (known.prompt, known.answer) != (problem.prompt, problem.answer):
        raise RowFault(f"expected a different uid for each Problem, but {problem.uid!r} is repeated")
    return replace(problem, uid=_free(problem.uid, taken))


def _free(stem: str, taken: Mapping[str, Problem]) -> str:
    """Return the uid, with a number as suffix if it is taken (by the same problem; the source decides about duplicates)."""
    if stem not in taken:
        return stem
    last = 1  # copies are numbered consecutively, so a binary search returns the first free number
    while f"{stem}-{2 * last}" in taken:
        last *= 2
    numbers = range(last + 1, 2 * last + 1)
    free = bisect_left(numbers, True, key=lambda number: f"{stem}-{number}" not in taken)
    return f"{stem}-{numbers[free]}"


def check_format(row_format: RowFormat) -> None:
    """Check that ``answer_form`` is one form, or one for each answer column.

    Raises:
        ConfigError: it is not.
    """
    columns = names(row_format.columns.answer)
    forms = row_format.answer_form
    if isinstance(forms, dict) and set(forms) != set(columns):
        raise ConfigError(
            f"answer_form: expected one form for each answer column ({', '.join(columns)}), got forms for "
            f"{', '.join(forms) or 'none'}"
        )
    for form in forms.values() if isinstance(forms, dict) else (forms,):
        if not isinstance(form, AnswerForm):
            raise ConfigError(f"answer_form: expected one of {', '.join(map(str, AnswerForm))}, got {form!r}")


def names(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the alternative names of a column as a tuple."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _prompt(row: Mapping[str, Any], row_format: RowFormat) -> str:
    column = _column(row, row_format.columns.prompt, "prompt")
    text = _text(row, column, "prompt")
    for suffix in row_format.strip_suffixes:
        text = text.removesuffix(suffix).rstrip()
    if not text:
        raise RowFault(f"expected a problem statement in {column!r}, got nothing but the instruction")
    context = _first(row, row_format.columns.context)
    if context is None or not lookup(row, context):
        return text
    return f"{_text(row, context, 'context')}\n\n{text}"


def _encodable(text: str, column: str, role: str) -> str:
    """Return the text if it has no lone surrogate: JSON can contain one, files and tokenizers cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowFault(
            f"expected the {role} as text in {column!r}, got the lone surrogate {text[error.start]!r} at position "
            f"{error.start}"
        ) from error
    return text


def _text(row: Mapping[str, Any], column: str, role: str) -> str:
    value = lookup(row, column)
    if not isinstance(value, str):
        hint = (
            "; a part of it is named with dots, as in messages.0.content" if isinstance(value, list | Mapping) else ""
        )
        raise RowFault(f"expected the {role} as text in {column!r}, got {_describe(value)}{hint}")
    if not value.strip():
        raise RowFault(f"expected the {role} as text in {column!r}, got an empty text")
    return _encodable(value.strip(), column, role)


def _answer(row: Mapping[str, Any], row_format: RowFormat) -> str:
    column = _column(row, row_format.columns.answer, "answer")
    form = row_format.answer_form
    if not isinstance(form, AnswerForm):
        form = form[column]
    try:
        return _encodable(normalise_gold(form, lookup(row, column)), column, "answer")
    except OverflowError as error:
        raise RowFault(f"{column!r}: expected a gold answer, got a number too long to be read") from error
    except InputError as error:
        # The text after the semicolon is the remedy, which the report of a source gives once for all its rows.
        raise RowFault(f"{column!r}: {str(error).rpartition('; ')[0] or error}") from error


def _multiple_choice(row: Mapping[str, Any], column: str, statement: str, row_format: RowFormat) -> tuple[str, str]:
    """Return the statement with its options, and the gold with all options."""
    answer = _column(row, row_format.columns.answer, "answer")
    try:
        choices = resolve(lookup(row, answer), lookup(row, column))
    except InputError as error:
        raise RowFault(f"{answer!r} and {column!r}: {error}") from error
    listed = "\n".join(f"{letter}) {text.strip()}" for letter, text in choices.options.items())
    gold = json.dumps({"answer": choices.letter, "options": list(choices.options.values())}, ensure_ascii=False)
    return f"{statement}\n\n{_encodable(listed, column, 'options')}", gold


def _uid(
    row: Mapping[str, Any], columns: FieldMap, source: str, content: tuple[str, str], taken: Mapping[str, Problem]
) -> str:
    column = _first(row, columns.uid)
    value = lookup(row, column) if column is not None else None
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        stem = f"{source}/{_encodable(str(value).strip(), str(column), 'id')}"
        if stem in taken and (taken[stem].prompt, taken[stem].answer) != content:
            raise RowFault(
                f"expected a different id in each row, but {column!r} repeats {value!r}; set columns.uid to the column "
                f"with the ids, or to [] for ids made from the content"
            )
    else:
        digest = hashlib.blake2b("\0".join(content).encode(), digest_size=6)
        stem = f"{source}/{digest.hexdigest()}"
    return _free(stem, taken)


def _level(row: Mapping[str, Any], columns: FieldMap) -> str | None:
    """Return the level, or None if it cannot be read: levels are optional, so this does not make the row malformed."""
    column = _first(row, columns.level)
    try:
        level = (
            _encodable(normalise_gold(AnswerForm.PLAIN, lookup(row, column)), column, "level")
            if column is not None
            else ""
        )
    except (InputError, OverflowError, RecursionError, RowFault):
        return None
    return level.removeprefix("Level ").strip().strip("?") or None


def _subject(row: Mapping[str, Any], fields: FieldMap) -> str | None:
    """Return the subject, or None if there is no text in its column: like levels, subjects are optional."""
    column = _first(row, fields.subject)
    value = None if column is None else lookup(row, column)
    try:
        return _encodable(value.strip(), str(column), "subject") or None if isinstance(value, str) else None
    except RowFault:
        return None


def _column(row: Mapping[str, Any], columns: str | tuple[str, ...], role: str) -> str:
    column = _first(row, columns)
    if column is None:
        null = [name for name in names(columns) if name in row]
        if null:
            raise RowFault(f"expected the {role} in {' or '.join(map(repr, null))}, got null")
        raise RowFault(
            f"expected the {role} in a field named {' or '.join(names(columns))}, got the fields "
            f"{', '.join(map(str, row)) or '(none)'}"
        )
    return column


def _first(row: Mapping[str, Any], columns: str | tuple[str, ...]) -> str | None:
    """Return the first column with a value. In a table each row has all columns, with null for missing values."""
    return next((column for column in names(columns) if lookup(row, column) is not None), None)


def lookup(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, or of a path with dots into one; None if there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    return f"{_shortened(value)} ({type(value).__name__})"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."
