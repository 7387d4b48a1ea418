"""The interface of problem sources, and the mapping from columns of rows to fields of problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.text.answers import AnswerForm


@runtime_checkable
class ProblemSource(Protocol):
    """Interface of a problem source.

    ``load`` reads the data when it is called, not earlier, and returns the same problems with the same uids in the same
    order at each call, on every rank. Uids are unique within a source and begin with its ``name``.
    """

    name: str

    def load(self) -> Sequence[Problem]: ...


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Mapping from columns of a row to fields of a problem. Of several names the first with a non-null value is used.

    A name with dots that is not itself a column is a path into lists and objects: ``reward_model.ground_truth``,
    ``prompt.0.content``.

    Args:
        prompt: The problem statement. Required in each row.
        answer: The gold answer, in the format given by ``answer_form``. Required in each row.
        uid: The id of the row. Rows without one get a hash of prompt and answer, which does not depend on the row order.
        level: The difficulty, stored as text: 5, 5.0 and ``Level 5`` all become ``5``.
        subject: The field of mathematics, as text, for tables: ``Algebra``.
        context: Text to put before the statement (a common introduction to several questions).
        options: The options of a multiple-choice question, as a list of texts, an object from letters to texts, or ARC's object
            of lists ``text`` and ``label``. They are put behind the statement, ``A) ...`` a line, and into the gold, which
            ``MultipleChoiceVerifier`` reads; the answer is then a letter, an option's text, or an index as a number (0 for A).
    """

    prompt: str | tuple[str, ...] = ("prompt", "problem", "question")
    answer: str | tuple[str, ...] = ("answer",)
    uid: str | tuple[str, ...] = ("unique_id", "uid", "id")
    level: str | tuple[str, ...] = ("level", "difficulty")
    subject: str | tuple[str, ...] = ("subject",)
    context: str | tuple[str, ...] = ()
    options: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for role in ("prompt", "answer", "uid", "level", "subject", "context", "options"):
            given = getattr(self, role)
            names = (given,) if isinstance(given, str) else given
            if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
                raise ConfigError(
                    f"columns: {role}: expected a column's name or a list of them, got {given!r} ({type(given).__name__})"
                )
            if role in ("prompt", "answer") and not names:
                raise ConfigError(f"columns: {role}: expected at least one column's name, got none")


if TYPE_CHECKING:
    Columns = FieldMap | Mapping[str, str | Sequence[str]]
else:  # the types that the command line accepts
    Columns = FieldMap


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How a row is converted to a ``Problem``: columns, format of the answer, and suffixes to remove from the prompt.

    Suffixes are instructions that are stored with the prompt but are not part of the problem.
    """

    columns: FieldMap = FieldMap()
    answer_form: AnswerForm | dict[str, AnswerForm] = AnswerForm.PLAIN
    strip_suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MalformedRow:
    """A row that could not be converted: its position (``line 3``, ``row 17``) and what is wrong with it."""

    where: str
    reason: str
