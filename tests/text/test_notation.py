"""One spelling for one layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.text.notation import Unreadable, canonical, layout_key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\frac\pi 2", r"\frac{\pi}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"( 3, \frac{\pi}{2} )"),
        (r"$2n-2$", "2n-2"),
        (r"x^2_1", "x^{2}_{1}"),
        ("x²", "x^{2}"),
        ("√12 + √(1+x)", r"\sqrt{12} + \sqrt{1+x}"),
        ("½", r"\frac{1}{2}"),
        ("（1，2）", "(1,2)"),
        ("４２。", "42"),
        ("90°", r"90^{\circ}"),
        (r"90^\circ", r"90^{\circ}"),
        (r"5\degree", r"5^{\circ}"),
        (r"\mathrm{e}^{2}-\mathrm{i}", "e^{2}-i"),
        (r"\mathbf{2340}", "2340"),
        (r"864 \mbox{ inches}^2", r"864 \text{inches}^{2}"),
        (r"\phantom -1", "1"),
        (r"\operatorname{sin} x", r"\sin x"),
        (r"2\pi r", r"2\pi r"),
        (r"{2}\,{x}", "2 x"),
        (r"\boxed{5}", "5"),
        (r"5\ ", "5"),
        (r"x\not=y", r"x\neq y"),
        (r"x \not \le 3", r"x \nleq 3"),
        (r"x\not\in A", r"x\notin A"),
        (r"x\notin A", r"x\notin A"),
    ],
)
def test_canonical(text: str, expected: str):
    assert canonical(text) == expected


@pytest.mark.parametrize("text", ["{", "}", "a}b{", "\\", "{" * 100 + "}" * 100, r"\sqrt" * 200 + "2"])
def test_unreadable(text: str):
    with pytest.raises(Unreadable):
        canonical(text)


def test_layout_key_keeps_what_tells_answers_apart():
    assert layout_key("2 x") == layout_key(r"2\cdot x") == "2x"
    assert layout_key("1 2") != layout_key("12")
    assert layout_key(r"2\cdot 3") != layout_key("23")
    assert layout_key(r"1 \quad 2") != layout_key("12")


@given(st.text(alphabet="\\{}[]^_&$ 12abfrcsqt√²", max_size=60))
def test_canonical_is_a_text_or_unreadable_and_blind_to_dollars(text: str):
    try:
        once = canonical(text)
    except Unreadable:
        return
    assert canonical(f"$ {text} $") == once
    assert layout_key(layout_key(once)) == layout_key(once)
