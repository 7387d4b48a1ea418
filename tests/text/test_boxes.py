"""Which boxes of a text are its answer."""

from __future__ import annotations

import pytest

from lit_tpgrpo.text.boxes import boxed_answer, find_boxes, strip_outer_space


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # several boxes, one answer
        (r"the fixed points are \[ \boxed{-2} \quad \text{and} \quad \boxed{1}. \]", "-2, 1"),
        (r"$\boxed{2}, \boxed{3}$", "2, 3"),
        (r"$x = \boxed{2}$ or $x = \boxed{3}$.", "2, 3"),
        (r"$\boxed{k = 45} \quad \text{and} \quad \boxed{n = 2}$", "k = 45, n = 2"),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "1, 2, 3"),
        (r"So $f(x)=x$ for $x=\boxed{-2}$ and $x=\boxed{1}$.", "-2, 1"),
        (r"Then $a=\boxed{3}$ or $a=\boxed{\frac{2}{5}}$.", r"3, \frac{2}{5}"),
        # one answer twice, as MATH's solutions have it
        (r"We get $\boxed{49}$ years.\n\nOR\n\nOnly $\boxed{49}$ is left.", "49"),
        (r"$= \boxed{15\frac{39}{40}},$ or $\boxed{\frac{639}{40}}$ inches.", r"\frac{639}{40}"),
        (r"$\boxed{0.5}$ or $\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        # the last box alone: the one before is no part of it
        (r"\boxed{5}. No, it is \boxed{6}", "6"),
        (r"\boxed{5} \boxed{6}", "6"),
        (r"\boxed{5} apples and then some more, and \boxed{6}", "6"),
        (r"\boxed{2} and " + "much more " * 10 + r"and \boxed{3}", "3"),
        (r"\boxed{4}, \boxed{5", None),
        # explained or repeated in the text
        (r"\boxed{12} (i.e. \boxed{\text{twelve}})", "12"),
        (r"\boxed{12} (i.e. \boxed{13})", "13"),
        (r"\boxed{2} = \boxed{3}", "2 = 3"),
        # without braces
        (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"$\boxed\frac12$", r"\frac12"),
        (r"$\boxed x$", "x"),
        (r"$\boxed\pi$", r"\pi"),
        (r"$\boxed\sqrt2$", r"\sqrt2"),
        (r"$\boxed\text{no}$", r"\text{no}"),
        (r"$\boxed\frac{1$", None),
        (r"as \boxed is used", None),
        (r"\\boxed{5}", "5"),
    ],
)
def test_answer_of_several_boxes(text: str, expected: str | None):
    assert boxed_answer(text) == expected


def test_places_of_nested_boxes():
    text = r"a\boxed{1+\boxed{2}}b\fbox{"
    boxes = find_boxes(text)
    assert [(text[box.start : box.end], box.content) for box in boxes] == [
        (r"\boxed{1+\boxed{2}}", r"1+\boxed{2}"),
        (r"\boxed{2}", "2"),
        (r"\fbox{", None),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r" a\ ", "a"),
        (r"a\ \ \ ", "a"),
        (r"a\\", r"a\\"),
        (r"a \\\ ", r"a \\"),
        ("\\ ", ""),
        ("", ""),
        (r"\ a", r"\ a"),
    ],
)
def test_control_spaces_at_the_end(text: str, expected: str):
    assert strip_outer_space(text) == expected
