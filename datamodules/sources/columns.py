"""Search the rows of a source for its columns, so that a misspelt name is one line that lists the names there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from lit_tpgrpo.datamodules.sources.base import FieldMap
from lit_tpgrpo.datamodules.sources.rows import names

_MAX_LISTED = 20
_MAX_DEPTH = 3


class ColumnSearch:
    """Record which columns the rows of a source have.

    Args:
        columns: the columns to search for.
        optional: whether those of id, level, context and options are searched for as well: they are where the user names them.
    """

    def __init__(self, columns: FieldMap, optional: bool) -> None:
        roles = {
            role: names(getattr(columns, role)) for role in ("prompt", "answer", "uid", "level", "context", "options")
        }
        default = FieldMap()
        self._missing = {
            role: columns_of_role
            for role, columns_of_role in roles.items()
            if role in ("prompt", "answer") or (optional and columns_of_role != names(getattr(default, role)))
        }
        self._missing = {role: alternatives for role, alternatives in self._missing.items() if alternatives}
        self._seen: dict[str, None] = {}

    def see(self, row: Any) -> None:
        """Record the columns of a row; a row that is no object has none."""
        if not self._missing or not isinstance(row, Mapping):
            return
        self._missing = {
            role: alternatives
            for role, alternatives in self._missing.items()
            if not any(_has(row, name) for name in alternatives)
        }
        if self._missing and len(self._seen) <= _MAX_LISTED:
            self._seen |= dict.fromkeys(_paths(row))

    def missing(self) -> str | None:
        """Return one line about a column that no row has, with the columns there are; None if each was seen.

        None as well if no row is an object: each of them is reported as malformed.
        """
        if not self._missing or not self._seen:
            return None
        role, alternatives = next(iter(self._missing.items()))
        seen = list(self._seen)
        near = difflib.get_close_matches(alternatives[0], seen, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        listed = ", ".join(seen[:_MAX_LISTED]) + (", ..." if len(seen) > _MAX_LISTED else "")
        return (
            f"no row has a column {' or '.join(alternatives)} for the {role}; name it with columns.{role}. "
            f"The columns are {listed}.{hint}"
        )


def _has(row: Mapping[str, Any], name: str) -> bool:
    """Return whether a row has a column or a path with dots, null or not; inside of null anything may be."""
    if name in row:
        return True
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False
        if value is None:
            return True
    return True


def _paths(value: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the names of columns, and the paths with dots to what they contain."""
    inner: list[tuple[Any, Any]] = []
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        inner = list(value.items())[: _MAX_LISTED + 1]
    elif depth < _MAX_DEPTH and isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        inner = [(0, value[0])]
    if not inner:
        yield prefix
    for key, item in inner:
        yield from _paths(item, f"{prefix}.{key}" if prefix else str(key), depth + 1)
