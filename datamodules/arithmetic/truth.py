"""Exact step labels of a solution text, computed by parsing it against the problem.

They are the ground truth for judges: a judge sees only the text, this parser knows the operations. It parses any text in
the domain's format, including texts sampled by a model; any other text is ``Unparsable``, with the reason, never guessed.

State of the parser: the *equations in force*, one for each operation done so far.

- A STEP asserts the next equation.
- A CORRECTION quotes an equation in force and replaces it by another; all later equations, which were built on it, are no
  longer in force.
- A CHECK quotes an equation in force and asserts it again.
- OPENING and FILLER assert no equation.

``right``: the asserted equation is the problem's true one for that operation (the true operation on the true value, with
the true result). So a step that builds on a wrong value is wrong even if its own arithmetic is right, and a correction is
right if what it asserts is true and what it denies is not. An opening is right if it states the problem's start and
modulus, a filler always, an answer block if it restates true equations only.

``still_holds``: no later paragraph retracted the claim. A step, check or correction holds while the equation that it
asserts is in force at its index; a paragraph that asserts no equation cannot be retracted.

Labels. Correct final answer: CORRECT if right, else INCORRECT. Incorrect final answer: the answer block is MATCHED; a
think step is MATCHED if the equation it asserts is among those restated in the answer block (the adopted ones; a denied
equation is not asserted), else UNMATCHED. So openings and fillers, which assert nothing, are UNMATCHED.
"""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lit_tpgrpo.datamodules.arithmetic import phrases
from lit_tpgrpo.datamodules.arithmetic.phrases import Kind
from lit_tpgrpo.datamodules.arithmetic.problems import Operation, Task, TaskEquation
from lit_tpgrpo.records import Problem, StepLabel

_INTEGER = r"\d{1,18}"  # numbers in a sampled text may have any length; the domain's have two digits
_PARTS = re.compile(rf"({_INTEGER})([-+*])({_INTEGER})=({_INTEGER})")
_EQUATION = rf"{_INTEGER}[-+*]{_INTEGER}={_INTEGER}"
_FIELDS = {
    "claim": f"(?P<claim>{_EQUATION})",
    "denied": f"(?P<denied>{_EQUATION})",
    "claims": f"(?P<claims>{_EQUATION}(?:, {_EQUATION})*)",
    "start": rf"(?P<start>{_INTEGER})",
    "modulus": rf"(?P<modulus>{_INTEGER})",
    "answer": rf"(?P<answer>{_INTEGER})",
}


def _pattern(template: str) -> re.Pattern[str]:
    parts = string.Formatter().parse(template)
    return re.compile("".join(re.escape(literal) + (_FIELDS[name] if name else "") for literal, name, _, _ in parts))


_THINK_PATTERNS = tuple(
    (kind, _pattern(template))
    for kind, templates in (
        (Kind.OPENING, phrases.OPENINGS),
        (Kind.STEP, phrases.FIRST_STEPS + phrases.STEPS + phrases.REDONE_STEPS),
        (Kind.CHECK, phrases.CHECKS),
        (Kind.CORRECTION, phrases.CORRECTIONS),
        (Kind.FILLER, phrases.FILLERS),
    )
    for template in templates
)
_ANSWER_PATTERNS = tuple(_pattern(template) for template in phrases.ANSWERS)
_PARAGRAPH = re.compile(r"\S(?:.|\n(?![ \t]*\n))*")


@dataclass(frozen=True, slots=True)
class StepTruth:
    """Ground truth of one paragraph: its start in the text, its claim, whether the claim is right, and the true label.

    ``still_holds``: the claim was not retracted by the end of the think block. ``denied``: for a correction, the paragraph
    (counted from 0) that first asserted the denied equation at the index where it is in force.
    """

    start: int
    kind: Kind
    claim: TaskEquation | None
    right: bool
    still_holds: bool
    label: StepLabel
    denied: int | None = None


@dataclass(frozen=True, slots=True)
class ChainTruth:
    """Ground truth of a solution. ``steps``: the paragraphs of the think block in order, then the answer block."""

    correct: bool
    steps: tuple[StepTruth, ...]

    @property
    def labels(self) -> tuple[StepLabel, ...]:
        return tuple(step.label for step in self.steps)

    @property
    def all_errors_corrected(self) -> bool:
        """Whether every error was corrected (the paper's premise for correct solutions): no wrong claim still holds."""
        return all(step.right or not step.still_holds for step in self.steps)


@dataclass(frozen=True, slots=True)
class Unparsable:
    """A text that is not in the domain's format, so its labels are unknown.

    ``reason`` is one of a few fixed sentences, so that texts can be counted by it; ``excerpt`` is the text it refers to.
    """

    reason: str
    excerpt: str = ""


class _UnparsableError(Exception):
    """Carries reason and excerpt out of the parser; does not leave this module."""


def solution_truth(problem: Problem, text: str) -> ChainTruth | Unparsable:
    """Return the ground truth of ``text``, a completion without its prompt and without EOS."""
    try:
        return _read(Task.from_prompt(problem.prompt), text)
    except _UnparsableError as error:
        return Unparsable(*error.args)


def _read(task: Task, text: str) -> ChainTruth:
    think, tag, answer = text.partition(phrases.THINK_END)
    if not tag:
        raise _UnparsableError("the think block is never closed")
    if phrases.THINK_END in answer:
        raise _UnparsableError("more than one </think>")
    reader = _ChainParser(task)
    read = [(m.start(), *reader.paragraph(m.group().rstrip())) for m in _PARAGRAPH.finditer(think)]
    restated, value = _read_answer(answer.strip())
    correct = value == task.answer
    adopted = set(restated)
    answer_right = correct and adopted <= set(reader.truth)
    answer_start = len(text) - len(answer.lstrip())
    steps = [
        StepTruth(
            start,
            kind,
            claim,
            right,
            i not in reader.retracted,
            _label(correct, right, claim in adopted),
            reader.denied.get(i),
        )
        for i, (start, kind, claim, right) in enumerate(read)
    ]
    steps.append(StepTruth(answer_start, Kind.ANSWER, None, answer_right, True, _label(correct, answer_right, True)))
    return ChainTruth(correct, tuple(steps))


def _label(correct: bool, right: bool, adopted: bool) -> StepLabel:
    if correct:
        return StepLabel.CORRECT if right else StepLabel.INCORRECT
    return StepLabel.MATCHED if adopted else StepLabel.UNMATCHED


def _equation(text: str) -> TaskEquation:
    left, symbol, operand, result = _PARTS.fullmatch(text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return TaskEquation(int(left), Operation(symbol, int(operand)), int(result))


def _read_answer(text: str) -> tuple[list[TaskEquation], int]:
    for pattern in _ANSWER_PATTERNS:
        if match := pattern.fullmatch(text):
            return [_equation(e) for e in match["claims"].split(", ")], int(match["answer"])
    raise _UnparsableError("answer block of no known form", text)


class _ChainParser:
    """Parser of the think block, paragraph by paragraph; its state is the equations in force.

    ``retracted`` are the paragraphs, counted from 0, whose equation is no longer in force; ``denied`` has for each
    correction the paragraph that first asserted, at the same index, the equation that it denies.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.truth = task.equations
        self.in_force: list[TaskEquation] = []
        self.retracted: set[int] = set()
        self.denied: dict[int, int] = {}
        self._asserted_by: list[list[int]] = []  # parallel to in_force: the paragraphs that assert each equation
        self._indices: defaultdict[TaskEquation, list[int]] = defaultdict(list)  # of each equation in force, ascending
        self._count = 0

    def paragraph(self, text: str) -> tuple[Kind, TaskEquation | None, bool]:
        """Parse a paragraph; return its kind, the claim and whether that is right."""
        for kind, pattern in _THINK_PATTERNS:
            if match := pattern.fullmatch(text):
                assertion = self._assertion(kind, match)
                self._count += 1
                return kind, *assertion
        raise _UnparsableError("paragraph of no known form", text)

    def _assertion(self, kind: Kind, match: re.Match[str]) -> tuple[TaskEquation | None, bool]:
        if kind is Kind.FILLER:
            return None, True
        if kind is Kind.OPENING:
            return None, (int(match["start"]), int(match["modulus"])) == (self.task.start, self.task.modulus)
        claim = _equation(match["claim"])
        if kind is Kind.STEP:
            self._assert(len(self.in_force), claim)
            return claim, self._is_true(len(self.in_force) - 1, claim)
        if kind is Kind.CHECK:
            index = self._latest_index(claim)
            self._asserted_by[index].append(self._count)
            return claim, self._is_true(index, claim)
        denied = _equation(match["denied"])
        index = self._latest_index(denied)
        self.denied[self._count] = self._asserted_by[index][0]
        self._assert(index, claim)
        return claim, self._is_true(index, claim) and claim != denied

    def _assert(self, index: int, claim: TaskEquation) -> None:
        """Set the equation in force at an index; retract the equations at and after it."""
        for paragraphs in self._asserted_by[index:]:
            self.retracted.update(paragraphs)
        for removed in reversed(self.in_force[index:]):
            self._indices[removed].pop()
        self._indices[claim].append(index)
        self.in_force[index:] = [claim]
        self._asserted_by[index:] = [[self._count]]

    def _is_true(self, index: int, claim: TaskEquation) -> bool:
        return index < len(self.truth) and claim == self.truth[index]

    def _latest_index(self, quoted: TaskEquation) -> int:
        """Return the last index at which the quoted equation is in force.

        Raises:
            _UnparsableError: it is not in force.
        """
        if indices := self._indices.get(quoted):
            return indices[-1]
        raise _UnparsableError("a reflection quotes an equation that is not in force", str(quoted))


def states_right(task: Task, steps: Sequence[str]) -> list[bool]:
    """Return for each step of a chain, whole or not, whether all equations in force after it are true.

    A step may hold several paragraphs. That of the answer block is right if the chain is done, all equations are true and the
    answer is their last result. A step that cannot be parsed is not right, and neither are those after it.
    """
    reader = _ChainParser(task)
    right: list[bool] = []
    in_answer = failed = true = False
    for step in steps:
        try:
            think, tag, answer = step.partition(phrases.THINK_END)
            if in_answer:
                think, answer = "", step
            for m in _PARAGRAPH.finditer(think):
                reader.paragraph(m.group().rstrip())
            in_answer = in_answer or bool(tag)
            true = reader.in_force == list(reader.truth[: len(reader.in_force)])
            if in_answer:
                true = true and len(reader.in_force) == len(reader.truth)
            if in_answer and answer.strip():
                true = true and _read_answer(answer.strip())[1] == reader.in_force[-1].result
        except _UnparsableError:
            failed = True
        right.append(not failed and true)
    return right
