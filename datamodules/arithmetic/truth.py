"""The exact truth of every step of a solution text, by parsing it against the problem.

It is what a judge is measured against: a judge sees the text alone, the truth knows the operations. Works for any text
of the domain's form, those sampled by a model included; any other text is ``Unparsable``, with the reason, never guessed.

State while reading: the *equations in force*, one for each operation done so far.

- A STEP asserts the next equation.
- A CORRECTION quotes an equation in force and asserts another in its place; what was built on it (all later equations)
  is no longer in force.
- A CHECK quotes an equation in force and asserts it again.
- OPENING and FILLER assert no equation.

``right``: the asserted equation is the problem's true one at that place (the true operation on the true value, with the
true result); so a step that builds on a wrong value is wrong even where its own arithmetic holds, and a correction is
right when what it asserts is true and what it denies is not. An opening is right if it states the problem's start and
modulus, a filler always, an answer block if it restates true equations only.

``standing``: no later paragraph took back what the paragraph says. A step, check or correction stands while the equation
that it asserts, at its place, is in force; what asserts no equation cannot be taken back.

Labels. Correct final answer: CORRECT where right, else INCORRECT. Incorrect final answer: the answer block is MATCHED;
a think step is MATCHED if the equation it asserts is among those restated in the answer block (the adopted ones:
a denied equation is not asserted), else UNMATCHED; so openings and fillers, which assert nothing, are UNMATCHED.
"""

from __future__ import annotations

import re
import string
from collections import defaultdict
from dataclasses import dataclass

from lit_tpgrpo.datamodules.arithmetic import phrases
from lit_tpgrpo.datamodules.arithmetic.phrases import Kind
from lit_tpgrpo.datamodules.arithmetic.problems import Operation, Task, TaskEquation
from lit_tpgrpo.records import Problem, StepLabel

_INTEGER = r"\d{1,18}"  # what a sampled text writes may have any length; the domain's numbers have two digits
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
    """One paragraph: where it starts in the text, what it asserts, whether that is right and whether it still holds at
    the end of the think block, and the label it deserves. ``denied`` is, for a correction, the paragraph (counted from
    0) that first asserted the denied equation at the place where it is in force."""

    start: int
    kind: Kind
    claim: TaskEquation | None
    right: bool
    standing: bool
    label: StepLabel
    denied: int | None = None


@dataclass(frozen=True, slots=True)
class ChainTruth:
    """``steps``: the paragraphs of the think block in order, then the answer block."""

    correct: bool
    steps: tuple[StepTruth, ...]

    @property
    def labels(self) -> tuple[StepLabel, ...]:
        return tuple(step.label for step in self.steps)

    @property
    def mended(self) -> bool:
        """Whether every error was put right (the paper's premise for correct solutions): nothing wrong is standing."""
        return all(step.right or not step.standing for step in self.steps)


@dataclass(frozen=True, slots=True)
class Unparsable:
    """The text is not of the domain's form, so its step truth is not known.

    ``reason`` is one of a few fixed sentences, by which texts can be counted; ``found`` is the place that it is about.
    """

    reason: str
    found: str = ""


class _NotOfTheDomain(Exception):
    """Carries the reason and what was found out of the reader; never leaves this module."""


def solution_truth(problem: Problem, text: str) -> ChainTruth | Unparsable:
    """The truth of ``text``, a completion without its prompt (and without EOS)."""
    try:
        return _read(Task.from_prompt(problem.prompt), text)
    except _NotOfTheDomain as error:
        return Unparsable(*error.args)


def _read(task: Task, text: str) -> ChainTruth:
    think, tag, answer = text.partition(phrases.THINK_END)
    if not tag:
        raise _NotOfTheDomain("the think block is never closed")
    if phrases.THINK_END in answer:
        raise _NotOfTheDomain("more than one </think>")
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
            i not in reader.taken_back,
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
    raise _NotOfTheDomain("answer block of no known form", text)


class _ChainParser:
    """Reads the think block paragraph by paragraph; its state is the equations in force.

    ``taken_back`` are the paragraphs, counted from 0, whose equation is no longer in force; ``denied`` holds for each
    correction the paragraph that first asserted, at its place, what the correction denies.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.truth = task.equations
        self.in_force: list[TaskEquation] = []
        self.taken_back: set[int] = set()
        self.denied: dict[int, int] = {}
        self._asserted_by: list[list[int]] = []  # beside in_force: the paragraphs that assert an equation there
        self._places: defaultdict[TaskEquation, list[int]] = defaultdict(list)  # of each equation in force, ascending
        self._count = 0

    def paragraph(self, text: str) -> tuple[Kind, TaskEquation | None, bool]:
        """The kind of a paragraph, what it asserts and whether that is right."""
        for kind, pattern in _THINK_PATTERNS:
            if match := pattern.fullmatch(text):
                assertion = self._assertion(kind, match)
                self._count += 1
                return kind, *assertion
        raise _NotOfTheDomain("paragraph of no known form", text)

    def _assertion(self, kind: Kind, match: re.Match[str]) -> tuple[TaskEquation | None, bool]:
        if kind is Kind.FILLER:
            return None, True
        if kind is Kind.OPENING:
            return None, (int(match["start"]), int(match["modulus"])) == (self.task.start, self.task.modulus)
        claim = _equation(match["claim"])
        if kind is Kind.STEP:
            self._put(len(self.in_force), claim)
            return claim, self._is_true(len(self.in_force) - 1, claim)
        if kind is Kind.CHECK:
            place = self._place(claim)
            self._asserted_by[place].append(self._count)
            return claim, self._is_true(place, claim)
        denied = _equation(match["denied"])
        place = self._place(denied)
        self.denied[self._count] = self._asserted_by[place][0]
        self._put(place, claim)
        return claim, self._is_true(place, claim) and claim != denied

    def _put(self, place: int, claim: TaskEquation) -> None:
        """Put an equation in force at a place; what was in force there and after it is taken back."""
        for paragraphs in self._asserted_by[place:]:
            self.taken_back.update(paragraphs)
        for removed in reversed(self.in_force[place:]):
            self._places[removed].pop()
        self._places[claim].append(place)
        self.in_force[place:] = [claim]
        self._asserted_by[place:] = [[self._count]]

    def _is_true(self, place: int, claim: TaskEquation) -> bool:
        return place < len(self.truth) and claim == self.truth[place]

    def _place(self, quoted: TaskEquation) -> int:
        """Where the quoted equation is in force; the latest place if there are several."""
        if places := self._places.get(quoted):
            return places[-1]
        raise _NotOfTheDomain("a reflection quotes an equation that is not in force", str(quoted))
