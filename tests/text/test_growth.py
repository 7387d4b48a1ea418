"""Readers of answers are linear: four times the text takes at most five times the steps of the interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from lit_tpgrpo.text.answers import AnswerForm, balanced, extract_answer, extract_boxed
from lit_tpgrpo.text.boxes import strip_outer_space
from lit_tpgrpo.text.formats import ThinkTags
from lit_tpgrpo.text.notation import Unreadable, canonical
from lit_tpgrpo.verify.structure import read_shape
from lit_tpgrpo.verify.units import split_unit


def steps(read: Callable[[str], object], text: str) -> int:
    """Lines that run while a text is read; a comprehension is one for each of its elements."""
    count = 0

    def trace(frame, event: str, argument: object):
        nonlocal count
        count += event == "line"
        return trace

    earlier = sys.gettrace()
    sys.settrace(trace)
    try:
        read(text)
    except Unreadable:
        pass
    finally:
        sys.settrace(earlier)
    return count


READERS = {
    "box": extract_boxed,
    "answer line": lambda text: extract_answer(text, AnswerForm.ANSWER_LINE),
    "division": ThinkTags().divide,
    "edges": strip_outer_space,
    "balanced": balanced,
    "notation": canonical,
    "unit": split_unit,
    "shape": read_shape.__wrapped__,
}
UNITS = [
    "\\ ",
    r"\boxed{",
    r"\boxed{1}",
    r"\boxed 1,",
    r"\boxed\frac{",
    "</think>",
    "{",
    "{}",
    r"\sqrt[",
    "^2",
    "1,",
    "(1,",
    r"\text{a}",
    "x=",
    " ",
    "$",
    "Answer:\n",
    "√2",
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("unit", UNITS)
def test_four_times_the_text_takes_at_most_five_times_the_steps(reader: str, unit: str):
    short, long = (steps(READERS[reader], unit * count) for count in (150, 600))
    assert long <= 5 * short + 200
