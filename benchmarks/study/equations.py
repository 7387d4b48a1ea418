"""Truth of the equations in a text of any domain: whether their arithmetic is right."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

from lit_tpgrpo.records import Problem
from lit_tpgrpo.text.paragraphs import paragraph_spans

_NUMBER = r"(\d{1,9})"
# Of one operation alone: nothing is calculated before or after it.
_EQUATION = re.compile(
    rf"(?<![\d.+*/-])(?<![-+*/] ){_NUMBER} ?([-+*]) ?{_NUMBER} ?= ?{_NUMBER}(?![\d.]\d| ?[-+*/] ?\d)", re.ASCII
)
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass(frozen=True, slots=True)
class EquationStep:
    """A paragraph: its first character, whether all equations in it are right, and its kind, ``equation`` or ``words``."""

    start: int
    right: bool
    kind: str


@dataclass(frozen=True, slots=True)
class EquationTruth:
    """The paragraphs of a text, in order."""

    steps: tuple[EquationStep, ...]


def equation_truth(problem: Problem, text: str) -> EquationTruth:
    """Return the paragraphs of a text; one without an equation of two whole numbers and one operation counts as right.

    The problem is not read: a right equation may have nothing to do with it.

    >>> text = "3 + 4 = 7.\\n\\n7 + 2 = 8.\\n\\nSo 8."
    >>> [(step.kind, step.right) for step in equation_truth(Problem("p", "", ""), text).steps]
    [('equation', True), ('equation', False), ('words', True)]
    """
    del problem
    steps = []
    for start, end in paragraph_spans(text):
        found = [_OPERATIONS[op](int(a), int(b)) == int(c) for a, op, b, c in _EQUATION.findall(text[start:end])]
        if text[start:end].strip():
            steps.append(EquationStep(start, all(found), "equation" if found else "words"))
    return EquationTruth(tuple(steps))
