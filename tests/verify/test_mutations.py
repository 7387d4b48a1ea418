"""Wrong answers made of right ones are wrong, and the verifier refuses them."""

from __future__ import annotations

import logging
import random

import pytest

from lit_tpgrpo.verify.algebra import equal
from lit_tpgrpo.verify.compare import compare
from lit_tpgrpo.verify.match import Match
from lit_tpgrpo.verify.mutations import (
    change_base,
    change_digit,
    change_order,
    change_sign,
    change_unit,
    sampled_golds,
    wrong_answers,
)

GOLDS = [
    "7",
    "-12",
    "0.25",
    "1,450",
    r"10,\!080",
    r"\frac{3}{7}",
    r"-\frac{11}{2}",
    r"1\frac{2}{3}",
    r"2\sqrt{3}",
    r"11\sqrt2",
    r"3+2\sqrt{5}",
    r"12\pi",
    r"\frac{5\pi}{4}",
    "x^3+3x-6",
    "(3x+7)(x+1)",
    "15x-80",
    "y = -2x",
    "x=5",
    "f(x)=x+22",
    "5x - 7y + 11z + 4 = 0",
    "52_8",
    "4210_{5}",
    r"-37_8",
    r"30^\circ",
    r"864 \mbox{ inches}^2",
    r"15 \text{ feet}",
    r"\$425",
    r"17\%",
    "(2,4)",
    "(5,2,-3)",
    r"\left( 3, \frac{\pi}{2} \right)",
    "[0,3)",
    r"(-\infty,-27)\cup(-27,\infty)",
    r"\begin{pmatrix} 4 \\ -12 \end{pmatrix}",
    r"\begin{pmatrix} 5 & -7 \\ -2 & 3 \end{pmatrix}",
    "-1,3,3",
    "27,54,108",
    "1+2i",
    "-7+24i",
    "x=1,y=2",
    "3:30",
    r"2^{2008} -2",
    r"4\!:\!51 \text{ p.m.}",
]


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """math-verify warns once that its time limit is off."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_no_changed_gold_is_accepted(seed: int):
    wrong = wrong_answers(GOLDS, seed)
    assert {kind for kind, _, _ in wrong} == {"digit", "sign", "base", "unit", "order"}
    assert [(k, g, w) for k, g, w in wrong if compare(g, w, equal) is Match.SAME] == []


def test_golds_themselves_are_accepted():
    assert [gold for gold in GOLDS if compare(gold, gold, equal) is not Match.SAME] == []


@pytest.mark.parametrize(
    ("change", "gold", "wrong"),
    [
        (change_sign, "5", "-5"),
        (change_sign, "-5", "5"),
        (change_sign, "x-5", "x+5"),
        (change_sign, "(x+5)", "(x-5)"),
        (change_sign, "0", None),
        (change_sign, r"\pm 5", None),
        (change_sign, r"\cos 5", None),
        (change_digit, "x", None),
        (change_digit, "(-1)^{n}", None),
        (change_base, "52", None),
        (change_unit, r"5\text{ cm}", r"5\text{ km}"),
        (change_unit, "5", None),
        (change_order, "(1,2)", "( 2 , 1 )"),
        (change_order, r"\left( 1,2 \right)", "( 2 , 1 )"),
        (change_order, "(3,3)", None),
        (change_order, r"\begin{pmatrix} 1 & -1 \\ 1 & \phantom -1 \end{pmatrix}", None),
        (change_order, "1,2", None),
        (change_order, "x=1,y=2", "x=2,y=1"),
    ],
)
def test_changes(change, gold: str, wrong: str | None):
    assert change(gold, random.Random(0)) == wrong


def test_rare_kinds_are_sampled_first():
    assert sampled_golds(["1", "2", "52_8", "3", "(1,2)"], 2) in (["52_8", "(1,2)"], ["(1,2)", "52_8"])
