"""Prompt sets: folders of text files, one per question, each of which declares its variables in its first line.

A set has ``shared.txt``, the common prefix of all prompts about a solution, and one file for each ``Question``. The files
are templates in a subset of Jinja, see ``templates``. Solutions are data to them, never parsed as templates.
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
from lit_tpgrpo.judges.generative.numbered_solution import NumberedSolution, prompt_text
from lit_tpgrpo.judges.generative.templates import MAX_FILE_CHARS, PromptTemplate
from lit_tpgrpo.pretrained import EMBEDDED, embedded_folder

DEFAULT_PROMPTS = Path(__file__).parent / "prompts"
_DECLARED = re.compile(r"\A\{# variables:([\w\s,]*)#\}[ \t]*\n")


class Question(enum.Enum):
    """The kinds of question; the value is the name of the prompt file."""

    SEGMENTATION = "segmentation"
    REFLECTIONS = "reflections"
    SOURCES = "sources"
    VERIFICATION = "verification"
    MATCHING = "matching"
    LABELLING = "labelling"
    STEP = "step"


SHARED = "shared"
# The variables available to each file; a file need not use all of them, except the id.
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


class PromptFolder:
    """The prompt files of a folder, read and checked at construction.

    Args:
        folder: holds a file for each name offered; None uses ``default``.
        default: the prompts of the package.
        offered: the files, each with the variables that it may use. All but ``shared`` must use ``id``.

    Raises:
        ConfigError: a file is missing, is not a valid template, or uses variables that it does not declare or that are
            not available.
    """

    def __init__(self, folder: str | Path | None, default: Path, offered: Mapping[str, frozenset[str]]) -> None:
        embedded = str(folder).startswith(EMBEDDED)
        self.folder = embedded_folder(str(folder)) if embedded else Path(folder) if folder else default
        if not self.folder.is_dir():
            raise ConfigError(
                f"prompt folder {str(self.folder)!r} does not exist; expected {', '.join(sorted(offered))} (.txt) in it"
            )
        self._templates: dict[str, PromptTemplate] = {}
        self._sources: dict[str, str] = {}
        for name, variables in offered.items():
            self._templates[name] = self._read(name, variables)

    def render(self, name: str, **variables: Any) -> str:
        """Render a file with these variables."""
        return self._templates[name].render(**variables)

    def _read(self, name: str, offered: frozenset[str]) -> PromptTemplate:
        path = self.folder / f"{name}.txt"
        try:
            with path.open(encoding="utf-8") as file:
                source = file.read(MAX_FILE_CHARS + 1)
        except OSError as error:
            raise ConfigError(f"prompt file {str(path)!r} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"prompt file {str(path)!r} is not UTF-8 text: {error.reason} at byte {error.start}"
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
            raise ConfigError(f"{path}: unknown variables {sorted(used - offered)}; available are {sorted(offered)}")
        if name != SHARED and "id" not in used:
            raise ConfigError(f"{path}: must use the variable id, which every verdict repeats")
        self._sources[name] = body
        return template

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all prompt files."""
        return hashlib.sha256(repr(sorted(self._sources.items())).encode()).hexdigest()[:16]


@checked_arguments()
class PromptSet(PromptFolder):
    """The prompts for questions about steps.

    Args:
        folder: holds ``shared.txt`` and a file for each question; ``embedded:judge-prompts`` are those of the tiny judge.
            None uses the prompts of the package.

    Raises:
        ConfigError: a file is missing, is not a valid template, or uses variables that it does not declare or that are
            not available.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__(folder, DEFAULT_PROMPTS, OFFERED)

    def shared(self, numbered: NumberedSolution, first: int, last: int) -> str:
        """Render the common prefix of all prompts about the paragraphs ``first`` to ``last`` of a solution."""
        return self.render(
            SHARED,
            problem=prompt_text(numbered.case.problem.prompt, numbered.max_chars // 2),
            paragraphs=[(n, numbered.texts[n - 1]) for n in range(first, last + 1)],
            answer=numbered.answer,
            fence=numbered.delimiter,
            first=first,
            last=last,
            total=len(numbered.paragraphs),
        )

    def question(self, question: Question, request_id: str, **variables: Any) -> str:
        """Render the question that follows the prefix."""
        return self.render(question.value, id=request_id, **variables)


def request_id(shared: str, question: enum.Enum, **variables: Any) -> str:
    """Return four hexadecimal digits that identify this question about this text."""
    material = repr((shared, question.value, sorted(variables.items())))
    return hashlib.sha256(material.encode(errors="replace")).hexdigest()[:4]
