"""Prompts are text files, one a question, in the folder of a prompt set; each declares its variables in its first line.

A set is ``shared.txt``, which all questions about a solution begin with, and one file for each ``Question``. The files
are templates in a part of Jinja's language, see ``templates``. What a solution says is data to them, never a template.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.numbered_solution import NumberedSolution, shown
from lit_tpgrpo.judges.generative.templates import MAX_FILE_CHARS, PromptTemplate
from lit_tpgrpo.pretrained import EMBEDDED, embedded_folder

DEFAULT_PROMPTS = Path(__file__).parent / "prompts"
_DECLARED = re.compile(r"\A\{# variables:([\w\s,]*)#\}[ \t]*\n")


class Question(enum.Enum):
    """The questions, by the names of their files."""

    SEGMENTATION = "segmentation"
    REFLECTIONS = "reflections"
    SOURCES = "sources"
    VERIFICATION = "verification"
    MATCHING = "matching"
    LABELLING = "labelling"
    STEP = "step"


SHARED = "shared"
# What the code has to offer to each file; a file may do without some of it, except the id.
OFFERED: Mapping[str, frozenset[str]] = {
    SHARED: frozenset({"problem", "paragraphs", "answer", "fence", "first", "last", "total"}),
    "segmentation": frozenset({"id", "first", "last"}),
    "reflections": frozenset({"id", "first", "last", "steps"}),
    "sources": frozenset({"id", "steps", "reflections"}),
    "verification": frozenset({"id", "steps", "asked", "reflections", "known"}),
    "matching": frozenset({"id", "first", "last", "steps"}),
    "labelling": frozenset({"id", "steps", "asked", "correct"}),
    "step": frozenset({"id", "step", "last", "correct"}),
}


@checked_arguments()
class PromptSet:
    """The prompt files of a folder, read and checked once.

    Args:
        folder: holds ``shared.txt`` and a file for each question; ``embedded:judge-prompts`` are those of the tiny judge.
            The package's own where not given.

    Raises:
        ConfigError: a file is missing, is no template, or uses other variables than it declares or can be given.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        embedded = str(folder).startswith(EMBEDDED)
        self.folder = embedded_folder(str(folder)) if embedded else Path(folder) if folder else DEFAULT_PROMPTS
        if not self.folder.is_dir():
            raise ConfigError(
                f"prompt folder {str(self.folder)!r} does not exist; expected {', '.join(sorted(OFFERED))} (.txt) in it"
            )
        self._templates: dict[str, PromptTemplate] = {}
        self._sources: dict[str, str] = {}
        for name, offered in OFFERED.items():
            self._templates[name] = self._read(name, offered)

    def _read(self, name: str, offered: frozenset[str]) -> PromptTemplate:
        path = self.folder / f"{name}.txt"
        try:
            with path.open(encoding="utf-8") as file:
                source = file.read(MAX_FILE_CHARS + 1)
        except OSError as error:
            raise ConfigError(f"prompt file {str(path)!r} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"prompt file {str(path)!r} is no text in UTF-8: {error.reason} at byte {error.start}"
            ) from error
        declaration = _DECLARED.match(source)
        if declaration is None:
            raise ConfigError(f"{path}: the first line must declare the variables, as in {{# variables: id, steps #}}")
        declared = {v.strip() for v in declaration[1].split(",") if v.strip()}
        body = source[declaration.end() :]
        template = PromptTemplate(body, path, first_line=2)
        used = template.variables
        if declared != used:
            raise ConfigError(f"{path}: declares {sorted(declared)}, but uses {sorted(used)}")
        if not used <= offered:
            raise ConfigError(f"{path}: there is no variable {sorted(used - offered)}; possible are {sorted(offered)}")
        if name != SHARED and "id" not in used:
            raise ConfigError(f"{path}: must show the variable id, which every verdict repeats")
        self._sources[name] = body
        return template

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all files."""
        return hashlib.sha256(repr(sorted(self._sources.items())).encode()).hexdigest()[:16]

    def shared(self, numbered: NumberedSolution, first: int, last: int) -> str:
        """What all questions about the paragraphs ``first`` to ``last`` of a solution begin with."""
        return self._templates[SHARED].render(
            problem=shown(numbered.case.problem.prompt, numbered.max_chars // 2),
            paragraphs=[(n, numbered.texts[n - 1]) for n in range(first, last + 1)],
            answer=numbered.answer,
            fence=numbered.fence,
            first=first,
            last=last,
            total=len(numbered.paragraphs),
        )

    def question(self, question: Question, request_id: str, **variables: Any) -> str:
        """The question itself."""
        return self._templates[question.value].render(id=request_id, **variables)


def request_id(shared: str, question: Question, **variables: Any) -> str:
    """Four hexadecimal digits that belong to this question about this text."""
    material = repr((shared, question.value, sorted(variables.items())))
    return hashlib.sha256(material.encode(errors="replace")).hexdigest()[:4]
