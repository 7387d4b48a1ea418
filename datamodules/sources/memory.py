"""Problems in memory: a list of problems or dicts, or a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.arguments import accepted, checked_arguments, shown
from lit_tpgrpo.datamodules.sources.base import ProblemSource
from lit_tpgrpo.datamodules.sources.reading import RowSource
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Problem

if TYPE_CHECKING:
    from datasets import Dataset

    Rows = Sequence[Problem] | Sequence[Mapping[str, Any]] | Dataset
    Problems = ProblemSource | Rows
else:  # the types that the command line accepts
    Rows = list[dict[str, Any]]
    Problems = ProblemSource


def _pandas_rows(table: Any) -> Any:
    # A missing value is NaN or NA in a table, null in a row: the next alternative column is read then.
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _dataset_rows(data: Any) -> Any:
    """Return a data set without its output format (NumPy, torch, ...), which rounds numbers; a transform is kept."""
    return data if data.format["type"] == "custom" else data.with_format(None)


_TABLES = {
    "datasets": _dataset_rows,
    "pandas": _pandas_rows,
    "pyarrow": lambda table: table.to_pylist(),
}


@checked_arguments(rows=lambda value, where: _checked(value, where))
class MemoryProblems(RowSource):
    """Problems from a list of ``Problem`` or of dicts, a ``datasets.Dataset``, a pandas or pyarrow table.

    Args:
        rows: The problems; they are not modified.
        kwargs: Arguments of ``RowSource``: ``preset``, ``columns``, ``answer_form``, ...; the uids of dicts begin with
            ``memory`` if neither ``name`` nor ``preset`` is given.
    """

    def __init__(self, rows: Rows, **kwargs: Any) -> None:
        self._data: Any = rows
        super().__init__(**kwargs)

    def _default_name(self) -> str:
        return "memory"

    def _rows(self) -> Iterator[tuple[str, Any]]:
        convert = _TABLES.get(_library(self._data))
        rows = self._data if convert is None else convert(self._data)
        return ((f"item {number}", row) for number, row in enumerate(rows, start=1))

    def _described(self) -> str:
        return f"{self.name} ({type(self._data).__name__} of {len(self._data)})"


def as_source(value: Any, where: str) -> Any:
    """Wrap problems in memory in a source; return a source unchanged.

    Raises:
        ConfigError: the value is neither.
    """
    if isinstance(value, ProblemSource) and not isinstance(value, type):
        return value
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        raise ConfigError(
            f"{where}: expected problems, got {shown(value)}; name a file with FileProblems({str(value)!r}), a data set of the "
            f"Hub with HubProblems({str(value)!r})"
        )
    if isinstance(value, type) or hasattr(value, "load"):
        return accepted(value, ProblemSource, where)
    return MemoryProblems(_checked(value, where), name=where.rpartition(": ")[2].partition("[")[0])


def as_optional_source(value: Any, where: str) -> Any:
    """Return None for None, otherwise like ``as_source``."""
    return None if value is None else as_source(value, where)


def as_sources(value: Any, where: str) -> Any:
    """Convert one or several values to a list of sources, see ``as_source``."""
    several = isinstance(value, list | tuple) and not any(isinstance(item, Problem | Mapping) for item in value)
    if not several:
        return [as_source(value, where)]
    return [as_source(item, f"{where}[{i}]") for i, item in enumerate(value)]


def as_named_sources(value: Any, where: str) -> Any:
    """Convert a mapping from names to sources, see ``as_source``.

    Raises:
        ConfigError: the value is no mapping with texts as keys, or one of its values is no source.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{where}: expected a dict with the name of each source, got {shown(value)}")
    return {name: as_source(source, f"{where}: {name}") for name, source in value.items()}


def _checked(rows: Any, where: str) -> Any:
    """Check that rows can be read repeatedly, in the same order, and return them."""
    if isinstance(rows, Mapping):
        inside = f" with {', '.join(map(str, list(rows)[:5]))}" if rows else ""
        raise ConfigError(
            f"{where}: expected a list of problems, got {type(rows).__name__}{inside}; give one of its values, a list "
            "with one dict a problem, or MixtureProblems of all its values"
        )
    if _library(rows) == "datasets" and hasattr(rows, "take") and not hasattr(rows, "__len__"):
        raise ConfigError(
            f"{where}: expected a list of problems, got {type(rows).__name__}, which may have no end; give "
            f"list(data.take(10_000)), after data.shuffle(seed=0, buffer_size=10_000) if its order is not random, or use "
            f"StreamedProblems"
        )
    if isinstance(rows, str | bytes) or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        raise ConfigError(
            f"{where}: expected a problem source, a list of problems or of dicts, or a datasets.Dataset, got {shown(rows)}; "
            "convert an iterator to a list"
        )
    return rows


def _library(rows: Any) -> str:
    return type(rows).__module__.partition(".")[0]
