r"""The boxes of a text, and the answer that the last of them give.

What counts as a box:

- ``\boxed{...}`` and ``\fbox{...}`` up to the matching brace; ``\{`` and ``\}`` are characters, not braces;
- ``\boxed 5``, ``\boxed -2.5``, ``\boxed\frac12``, ``\boxed x``: a box without braces around a decimal number, one
  command with its arguments or one letter, as some of MATH's authors write it. Any other ``\boxed`` without braces is
  taken as talk about boxes and skipped;
- of nested boxes the inner one, since it opens last: ``\boxed{\boxed{5}}`` gives ``5``;
- ``\boxed{}`` gives the empty string (an answer was written and it is empty), no box gives None.

The box that opens last decides, together with those before it from which only a joining word, a comma or a name
separates it: ``$x=\boxed{2}$ or $x=\boxed{3}$`` gives ``2, 3``. Boxes with the same content, or the same plain number
(``\boxed{15\frac{39}{40}}, or \boxed{\frac{639}{40}}``), are one answer written twice: of 500 MATH solutions 8 have
several boxes, 7 repeat their answer in a second proof, and this is the eighth. ``\boxed{12} (i.e. \boxed{\text{twelve}})``
is explained in words and gives ``12``; ``\boxed{2}=\boxed{3}`` claims an equation and gives ``2 = 3``. Everything is
linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_tpgrpo.text.notation import Unreadable, canonical
from lit_tpgrpo.text.numerals import read_numeral

MAX_GAP = 60
"""Characters between two boxes that can be one answer."""
MAX_UNBRACED = 200
"""Characters of a box without braces."""

_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])")  # two backslashes: escaped once too often
_TOKEN = re.compile(rf"{_BOX.pattern}|\\.|[{{}}]", re.DOTALL)
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTER = re.compile(r"[A-Za-z](?![A-Za-z])")
_ARGUMENTS = {
    "frac": 2,
    "dfrac": 2,
    "tfrac": 2,
    "binom": 2,
    "sqrt": 1,
    "text": 1,
    "mathrm": 1,
    "textbf": 1,
    "mathbf": 1,
}
_GAP = re.compile(
    r"(?P<join>\$|\s|\\[()\[\], ;!]|\\q?quad|\\\\|,|;|&|\\text\{\s*(?:and|or|,)\s*\}|\b(?:and|or)\b)"
    r"|(?P<name>[A-Za-z](?:_\{?[A-Za-z0-9]\}?)?'?\s?=)|(?P<equals>=)|(?P<gloss>\(?i\.e\.,?|\(?that is,?|\()"
)
_JOINS = re.compile(r",|;|&|\b(?:and|or)\b|\\q?quad|\\\\")


@dataclass(frozen=True, slots=True)
class Box:
    """``text[start:end]`` is the whole box; ``content`` is None where it never closes."""

    start: int
    end: int
    content: str | None


def boxed_answer(text: str) -> str | None:
    """The answer in the last box or boxes, see the module."""
    boxes = find_boxes(text)
    if not boxes or boxes[-1].content is None:
        return None
    answers = [boxes[-1].content]
    for box, following in zip(boxes[-2::-1], boxes[:0:-1], strict=False):
        if box.content is None or box.end > following.start:
            break
        link = _link(text[box.end : following.start])
        if link == "":
            break
        if link == "gloss":
            if any(c.isdigit() for c in answers[0]):
                break
            answers[0] = box.content
        elif link == "=":
            answers[0] = f"{box.content} = {answers[0]}"
        elif not _same(box.content, answers[0]):
            answers.insert(0, box.content)
    return ", ".join(answers)


def find_boxes(text: str) -> list[Box]:
    """All boxes in the order in which they open, in one pass."""
    boxes: list[Box] = []
    stack: list[tuple[int, int, int] | None] = []  # of each open brace: (place in boxes, start, content) or no box
    after_box: int | None = None  # where the box command began that this brace may belong to
    expected_at = -1
    for token in _TOKEN.finditer(text):
        if token[0] == "{":
            if after_box is not None and token.start() == expected_at:
                stack.append((len(boxes), after_box, token.end()))
                boxes.append(Box(after_box, len(text), None))
            else:
                stack.append(None)
        elif token[0] == "}":
            opened = stack.pop() if stack else None
            if opened is not None:
                place, start, content = opened
                boxes[place] = Box(start, token.end(), without_edges(text[content : token.start()]))
        after_box = None
        if _BOX.fullmatch(token[0]):
            expected_at = token.end()
            while expected_at < len(text) and text[expected_at].isspace():
                expected_at += 1
            if text[expected_at : expected_at + 1] == "{":
                after_box = token.start()
            else:
                end = _unbraced(text, expected_at)
                if end is not None:
                    boxes.append(Box(token.start(), end, text[expected_at:end].strip()))
    return boxes


def without_edges(text: str) -> str:
    r"""Without outer white space and the control spaces ``\ `` at the end, which ``str.strip`` would cut in half."""
    text = text.strip()
    end = len(text)
    while end:
        slashes = end
        while slashes and text[slashes - 1] == "\\":
            slashes -= 1
        if (end - slashes) % 2 == 0:
            break
        end -= 1  # the backslash whose space was stripped
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]


def _unbraced(text: str, start: int) -> int | None:
    """Where a box without braces ends; None where there is none."""
    window = text[start : start + MAX_UNBRACED]
    if match := _NUMBER.match(window) or _LETTER.match(window):
        return start + match.end()
    command = _COMMAND.match(window)
    if command is None or _BOX.match(window):
        return None
    at: int | None = command.end()
    for _ in range(_ARGUMENTS.get(command[0][1:], 0)):
        at = _argument(window, at)
        if at is None:
            return None
    return start + at


def _argument(text: str, at: int) -> int | None:
    """Where TeX's next argument ends: a group, a command or a character."""
    while at < len(text) and text[at].isspace():
        at += 1
    if command := _COMMAND.match(text, at):
        return command.end()
    if at >= len(text) or text[at] != "{":
        return at + 1 if at < len(text) and text[at].isalnum() else None
    depth = 0
    for token in re.finditer(r"\\.|[{}]", text[at:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return at + token.end()
    return None


def _link(gap: str) -> str:
    """How the text between two boxes joins them: ``,``, ``=``, ``gloss``, or not at all."""
    if len(gap) > MAX_GAP:
        return ""
    at, kinds = 0, set()
    while at < len(gap):
        match = _GAP.match(gap, at)
        if match is None:
            return ""
        kinds.add(match.lastgroup)
        at = match.end()
    if "gloss" in kinds:
        return "gloss" if kinds <= {"gloss", "join"} else ""
    if "equals" in kinds:
        return "=" if "name" not in kinds and not _JOINS.search(gap) else ""
    return "," if _JOINS.search(gap) else ""


def _same(first: str, second: str) -> bool:
    """Whether two boxes have one content, or the same plain number in them."""
    if first == second:
        return True
    try:
        ours, theirs = canonical(first), canonical(second)
    except Unreadable:
        return False
    numbers = read_numeral(ours), read_numeral(theirs)
    return ours == theirs or (
        numbers[0] is not None and numbers[1] is not None and numbers[0].value == numbers[1].value
    )
