r"""Find the boxes of a text, and the answer that the last of them give.

What counts as a box:

- ``\boxed{...}`` and ``\fbox{...}`` up to the matching brace; ``\{`` and ``\}`` are characters, not braces;
- ``\boxed 5``, ``\boxed -2.5``, ``\boxed\frac12``, ``\boxed x``: a box without braces around a decimal number, one
  command with its arguments or one letter, as some authors of MATH write it. Any other ``\boxed`` without braces is
  considered a mention of the command and skipped;
- of nested boxes the inner one, since it opens last: ``\boxed{\boxed{5}}`` gives ``5``;
- ``\boxed{}`` gives the empty string (an answer was written and is empty), no box gives None.

The box that opens last decides, together with preceding boxes if only a joining word, a comma or a name is between them:
``$x=\boxed{2}$ or $x=\boxed{3}$`` gives ``2, 3``. Boxes with the same content, or the same plain number
(``\boxed{15\frac{39}{40}}, or \boxed{\frac{639}{40}}``), are one answer written twice: of 500 MATH solutions 8 have
several boxes, 7 repeat their answer in a second proof, and this is the eighth. ``\boxed{12} (i.e. \boxed{\text{twelve}})``
repeats the answer in words and gives ``12``; ``\boxed{2}=\boxed{3}`` claims an equation and gives ``2 = 3``. Everything
takes time linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from lit_tpgrpo.text.notation import Unreadable, canonical
from lit_tpgrpo.text.numerals import Numeral, read_numeral

MAX_GAP = 60
"""Maximum number of characters between two boxes of one answer."""
MAX_UNBRACED = 200
"""Maximum number of characters of a box without braces."""

_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])")  # two backslashes: escaped twice
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
    """A box ``text[start:end]``; ``inner`` is the span of its content, None if the box never closes.

    The content is sliced on demand, because the total length of nested boxes' contents is quadratic in the text.
    """

    text: str = field(repr=False)
    start: int
    end: int
    inner: tuple[int, int] | None

    @property
    def content(self) -> str | None:
        """Content of the box, without outer white space; None if the box never closes."""
        return None if self.inner is None else strip_outer_space(self.text[slice(*self.inner)])


def boxed_answer(text: str) -> str | None:
    r"""Return the answer in the last box or boxes, None if there is none; see the module.

    >>> boxed_answer(r"First \boxed{1}. So x is \boxed{3} or \boxed{4}.")
    '3, 4'
    """
    last = _last_boxes(text)
    return None if last is None else last[1]


def boxed_answer_start(text: str) -> int | None:
    r"""Return where the first of the boxes that ``boxed_answer`` reads begins, None if there is no box.

    >>> boxed_answer_start(r"\boxed{1}. So x is \boxed{3} or \boxed{4}.")
    19
    """
    last = _last_boxes(text)
    return None if last is None else last[0]


def _last_boxes(text: str) -> tuple[int, str | None] | None:
    """Return where the last boxes that are one answer begin, and the answer; None if there is no box."""
    boxes = find_boxes(text)
    if not boxes:
        return None
    start, last = boxes[-1].start, boxes[-1].content
    if last is None:
        return start, None
    # From the last box to the first. Each answer is a chain of sides, "a = b", also from last to first.
    answers: list[list[str]] = [[last]]
    for box, following in zip(boxes[-2::-1], boxes[:0:-1], strict=False):
        if box.end > following.start or (content := box.content) is None:
            break
        link = _link(text[box.end : following.start])
        if link == "":
            break
        if link == "gloss":
            if any(c.isdigit() for side in answers[-1] for c in side):
                break
            answers[-1] = [content]
        elif link == "=":
            answers[-1].append(content)
        else:
            answers[-1] = [" = ".join(reversed(answers[-1]))]
            if not _same(content, answers[-1][0]):
                answers.append([content])
        start = box.start
    return start, ", ".join(" = ".join(reversed(sides)) for sides in reversed(answers))


def find_boxes(text: str) -> list[Box]:
    """Find all boxes, in the order in which they open, in one pass."""
    boxes: list[Box] = []
    stack: list[
        tuple[int, int, int] | None
    ] = []  # per open brace: (index in boxes, start of box, of content), None: no box
    after_box: int | None = None  # start of the box command to which the next brace may belong
    expected_at = -1
    for token in _TOKEN.finditer(text):
        if token[0] == "{":
            if after_box is not None and token.start() == expected_at:
                stack.append((len(boxes), after_box, token.end()))
                boxes.append(Box(text, after_box, len(text), None))
            else:
                stack.append(None)
        elif token[0] == "}":
            opened = stack.pop() if stack else None
            if opened is not None:
                index, start, content = opened
                boxes[index] = Box(text, start, token.end(), (content, token.start()))
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
                    boxes.append(Box(text, token.start(), end, (expected_at, end)))
    return boxes


def strip_outer_space(text: str) -> str:
    r"""Strip outer white space, and control spaces ``\ `` at the end, which ``str.strip`` would cut in half."""
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
    """Return the end of the content of a box without braces that begins at ``start``; None if there is no such box."""
    window = text[start : start + MAX_UNBRACED]
    if match := _NUMBER.match(window) or _LETTER.match(window):
        return start + match.end()
    command = _COMMAND.match(window)
    if command is None or _BOX.match(window):
        return None
    end: int | None = command.end()
    for _ in range(_ARGUMENTS.get(command[0][1:], 0)):
        end = _argument_end(window, end)
        if end is None:
            return None
    return start + end


def _argument_end(text: str, start: int) -> int | None:
    """Return the end of TeX's next argument from ``start``: a group, a command or a character; None if there is none."""
    while start < len(text) and text[start].isspace():
        start += 1
    if command := _COMMAND.match(text, start):
        return command.end()
    if start >= len(text) or text[start] != "{":
        return start + 1 if start < len(text) and text[start].isalnum() else None
    depth = 0
    for token in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return start + token.end()
    return None


def _link(gap: str) -> str:
    """Return how the text between two boxes joins them: ``,``, ``=``, ``gloss`` (repeated in words), or "" if not."""
    if len(gap) > MAX_GAP:
        return ""
    position, kinds = 0, set()
    while position < len(gap):
        match = _GAP.match(gap, position)
        if match is None:
            return ""
        kinds.add(match.lastgroup)
        position = match.end()
    if "gloss" in kinds:
        return "gloss" if kinds <= {"gloss", "join"} else ""
    if "equals" in kinds:
        return "=" if "name" not in kinds and not _JOINS.search(gap) else ""
    return "," if _JOINS.search(gap) else ""


def _same(first: str, second: str) -> bool:
    """Return whether two boxes have the same content or the same plain number."""
    if first == second:
        return True
    first_reading, second_reading = _reading(first), _reading(second)
    if first_reading is None or second_reading is None:
        return False
    numbers = first_reading[1], second_reading[1]
    return first_reading[0] == second_reading[0] or (
        numbers[0] is not None and numbers[1] is not None and numbers[0].value == numbers[1].value
    )


@lru_cache(maxsize=8)  # one long box may be compared with thousands of short ones
def _reading(content: str) -> tuple[str, Numeral | None] | None:
    """Read a box's content: its canonical form and, if it is a number, its value; None if it cannot be read."""
    try:
        form = canonical(content)
    except Unreadable:
        return None
    return form, read_numeral(form)
