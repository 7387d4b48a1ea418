"""What a source of problems is, and how the columns of its rows are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.text.answers import AnswerForm


@runtime_checkable
class ProblemSource(Protocol):
    """Where problems come from.

    ``load`` reads everything when it is called, never earlier, and gives the same problems with the same uids in the
    same order each time, on every rank. Uids are unique within a source and begin with its ``name``.
    """

    name: str

    def load(self) -> Sequence[Problem]: ...


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Which column of a row holds what. Of several names the first is read that the row has, null not counted.

    A name with dots that is no column itself leads into lists and objects: ``reward_model.ground_truth``,
    ``prompt.0.content``.

    Args:
        prompt: The problem statement. Required in each row.
        answer: The gold answer, in the form that ``answer_form`` names. Required in each row.
        uid: The row's own id. Rows without one get a hash of prompt and answer, which survives reordering the file.
        level: The difficulty, kept as text: 5, 5.0 and ``Level 5`` all become ``5``.
        context: Text that stands before the statement (a common introduction to several questions).
    """

    prompt: str | tuple[str, ...] = ("prompt", "problem", "question")
    answer: str | tuple[str, ...] = ("answer",)
    uid: str | tuple[str, ...] = ("unique_id", "uid", "id")
    level: str | tuple[str, ...] = ("level", "difficulty")
    context: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for role in ("prompt", "answer", "uid", "level", "context"):
            given = getattr(self, role)
            names = (given,) if isinstance(given, str) else given
            if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
                raise ConfigError(
                    f"fields: {role}: expected a column's name or a list of them, got {given!r} ({type(given).__name__})"
                )
            if role in ("prompt", "answer") and not names:
                raise ConfigError(f"fields: {role}: expected at least one column's name, got none")


if TYPE_CHECKING:
    Fields = FieldMap | Mapping[str, str | Sequence[str]]
else:  # what the command line can give
    Fields = FieldMap


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How a row becomes a ``Problem``: columns, the form of the answer, and text that the prompt ends with but the
    problem does not contain (an instruction that someone put into the file)."""

    fields: FieldMap = FieldMap()
    answer_form: AnswerForm | dict[str, AnswerForm] = AnswerForm.PLAIN
    strip_suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MalformedRow:
    """A row that could not be used: where it stands (``line 3``, ``row 17``) and what is wrong with it."""

    where: str
    reason: str
