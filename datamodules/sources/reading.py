"""Base class of the sources that read rows: settings, the loop over rows, the report of malformed ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.arguments import accepted
from lit_tpgrpo.datamodules.sources.base import Columns, FieldMap, MalformedRow, RowFormat
from lit_tpgrpo.datamodules.sources.columns import ColumnSearch
from lit_tpgrpo.datamodules.sources.presets import find_preset
from lit_tpgrpo.datamodules.sources.rows import RowFault, check_format, to_problem
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.text.answers import AnswerForm

OnMalformed = Literal["stop", "skip"]
OnDuplicate = Literal["keep", "drop", "stop"]
_MAX_LISTED = 10


def resolve_format(
    preset: str | None,
    columns: Columns | None,
    answer_form: AnswerForm | dict[str, AnswerForm] | None,
    strip_suffixes: Sequence[str] | None,
) -> RowFormat:
    """Return the preset's row format (or the default one), overridden by the arguments that are given.

    Raises:
        ConfigError: an argument is invalid, or ``columns`` without ``answer_form`` does not fit the preset.
    """
    row_format = find_preset(preset).format if preset is not None else RowFormat()
    columns = accepted(columns, FieldMap | None, "columns")
    suffixes = None if strip_suffixes is None else tuple(strip_suffixes)
    given = {"columns": columns, "answer_form": answer_form, "strip_suffixes": suffixes}
    if columns is not None and answer_form is None and isinstance(row_format.answer_form, dict):
        raise ConfigError(
            f"columns: preset {preset!r} reads its answer columns in different forms; give answer_form with your columns"
        )
    row_format = replace(row_format, **{key: value for key, value in given.items() if value is not None})
    check_format(row_format)
    return row_format


class RowSource(ABC):
    """Source that converts rows to problems.

    A subclass yields the rows as ``(where, row)``, with a ``RowFault`` for a row that cannot be decoded, and describes its
    data for messages.

    Args:
        preset: Name of a known data set with the same columns and answer format as the rows (``math500``, ``gsm8k``, ...).
        columns: Mapping of columns, overrides the preset's: a FieldMap, or a dict of its arguments.
        answer_form: Format of the answer (one, or one for each answer column), overrides the preset's.
        strip_suffixes: Texts to remove from the end of each prompt, override the preset's: instructions in the data that
            are not part of the problem.
        on_malformed: ``stop`` raises an error that lists the malformed rows, ``skip`` skips them with a warning.
        limit: Most problems to load; null loads all.
        name: Prefix of uids and value of ``Problem.source``; null uses the preset's name, or that of the data.
        on_duplicate: What to do with a row that repeats the statement of an earlier one: ``keep`` it, with a warning that
            counts them; ``drop`` it, with the same warning; ``stop`` with an error.
    """

    RENAMED_ARGUMENTS: ClassVar = {"fields": "columns"}

    def __init__(
        self,
        *,
        preset: str | None = None,
        columns: Columns | None = None,
        answer_form: AnswerForm | dict[str, AnswerForm] | None = None,
        strip_suffixes: Sequence[str] | None = None,
        on_malformed: OnMalformed = "stop",
        limit: int | None = None,
        name: str | None = None,
        on_duplicate: OnDuplicate = "keep",
    ) -> None:
        row_format = resolve_format(preset, columns, answer_form, strip_suffixes)
        if on_malformed not in ("stop", "skip"):
            raise ConfigError(f"on_malformed: expected stop or skip, got {on_malformed!r}")
        if on_duplicate not in ("keep", "drop", "stop"):
            raise ConfigError(f"on_duplicate: expected keep, drop or stop, got {on_duplicate!r}")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit: expected at least 1 problem (null for all of them), got {limit}")
        self.name = name or preset or self._default_name()
        if not self.name:
            raise ConfigError("name: expected a name, which the uids of this source begin with, got an empty text")
        self.malformed: tuple[MalformedRow, ...] = ()
        self._format = row_format
        self._has_columns = columns is not None
        self._on_malformed = on_malformed
        self._on_duplicate = on_duplicate
        self._duplicates = 0
        self._limit = limit
        self._loaded = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._described()})"

    def load(self) -> Sequence[Problem]:
        """Read the rows and convert them to problems.

        Skipped rows are listed in ``malformed``. With a limit, reading ends once there are that many problems; later rows
        are not read.

        Raises:
            InputError: there are no rows, no row is valid, or rows are malformed (stop) or repeated (``on_duplicate`` stop);
                no row has a column for the prompt or the answer, or one that ``columns`` names.
        """
        problems: dict[str, Problem] = {}
        malformed: list[MalformedRow] = []
        repeats = _Repeats()
        search = ColumnSearch(self._format.columns, optional=self._has_columns)
        read = 0
        for where, row in self._rows():
            read += 1
            search.see(row)
            try:
                if isinstance(row, RowFault):
                    raise row
                problem = to_problem(row, self._format, self.name, problems)
            except RowFault as fault:
                malformed.append(MalformedRow(where, str(fault)))
                continue
            if not repeats.is_repeat(where, problem) or self._on_duplicate != "drop":
                problems[problem.uid] = problem
            if len(problems) == self._limit:
                break
        if missing := search.missing():
            raise InputError(f"{self._described()}: {missing}")
        self._report(read, len(problems), malformed)
        self._report_duplicates(repeats)
        self.malformed, self._loaded, self._duplicates = tuple(malformed), len(problems), repeats.count
        return list(problems.values())

    def metrics(self) -> dict[str, float]:
        """Return the numbers of problems, malformed rows and repeated statements of the last ``load``."""
        return {
            "problems": float(self._loaded),
            "malformed": float(len(self.malformed)),
            "duplicates": float(self._duplicates),
        }

    @abstractmethod
    def _default_name(self) -> str:
        """Return the prefix of uids if neither a name nor a preset is given."""

    @abstractmethod
    def _rows(self) -> Iterator[tuple[str, Any]]: ...

    @abstractmethod
    def _described(self) -> str: ...

    def _report(self, rows: int, good: int, malformed: list[MalformedRow]) -> None:
        if rows == 0:
            raise InputError(
                f"{self._described()}: expected at least one row, got none. Is it the right file or split?"
            )
        if not malformed:
            return
        listed = "".join(f"\n  {row.where}: {row.reason}" for row in malformed[:_MAX_LISTED])
        if len(malformed) > _MAX_LISTED:
            listed += f"\n  and {len(malformed) - _MAX_LISTED} more"
        summary = f"{self._described()}: {len(malformed)} of {rows} rows read are malformed:{listed}"
        if good == 0:
            raise InputError(f"{summary}\nNo usable row is left. Do columns and answer_form fit this data?")
        if self._on_malformed == "stop":
            raise InputError(f"{summary}\nCorrect them, or leave them out with on_malformed: skip.")
        rank_zero_warn(f"{summary}\nThey were left out (on_malformed: skip).")

    def _report_duplicates(self, repeats: _Repeats) -> None:
        if not repeats.count:
            return
        summary = f"{self._described()}: {repeats}"
        if self._on_duplicate == "stop":
            raise InputError(f"{summary}. Remove them, or set on_duplicate to drop or keep.")
        action = "are kept (on_duplicate: drop removes them)" if self._on_duplicate == "keep" else "were dropped"
        rank_zero_warn(f"{summary}. They {action}.")


class _Repeats:
    """Counts the rows that repeat the statement of an earlier row; spaces and line breaks are ignored."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}
        self._example = ""
        self.count = 0
        self._other_answers = 0

    def is_repeat(self, where: str, problem: Problem) -> bool:
        """Record a problem; return whether an earlier one has the same statement."""
        first, answer = self._first.setdefault(" ".join(problem.prompt.split()), (where, problem.answer))
        if first == where:
            return False
        self._example = self._example or f"{where} that of {first}"
        self.count += 1
        self._other_answers += answer != problem.answer
        return True

    def __str__(self) -> str:
        others = f", {self._other_answers} of them with another answer" if self._other_answers else ""
        rows = "row repeats" if self.count == 1 else "rows repeat"
        return f"{self.count} {rows} the statement of an earlier one{others} ({self._example})"
