"""Exact values of plain numbers, and when a decimal stands for another number."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.text.notation import canonical
from lit_tpgrpo.text.numerals import read_based, read_numeral, same_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-05", -5),
        ("+5", 5),
        ("1,450,000", 1450000),
        ("1 000", 1000),
        (r"10,\!080", 10080),
        ("1{,}000", 1000),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("1,000.5", Fraction(2001, 2)),
        ("1e6", 10**6),
        ("1E-7", Fraction(1, 10**7)),
        (r"3.89\times10^{-10}", Fraction(389, 10**12)),
        ("10^{-3}", Fraction(1, 1000)),
        (r"\frac12", Fraction(1, 2)),
        (r"-\dfrac{-1}{2}", Fraction(1, 2)),
        ("11/2", Fraction(11, 2)),
        ("1 1/2", Fraction(3, 2)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        ("1½", Fraction(3, 2)),
        ("−３", -3),
        (r"0.\overline{1}", Fraction(1, 9)),
        (r"-2.1\overline{36}", Fraction(-47, 22)),
        ("1,45", None),
        ("12 34", None),
        ("1/0", None),
        ("2 3/2", None),
        ("--5", None),
        ("-", None),
        ("", None),
        ("1,2", None),
        ("1e99999", None),
        ("10^{99999}", None),
        ("x", None),
        (r"\sqrt{4}", None),
        ("1e", None),
        ("5 6/", None),
    ],
)
def test_values(text: str, value: int | None):
    numeral = read_numeral(canonical(text))
    assert (numeral and numeral.value) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("52_8", (42, 8)),
        (r"\text{A5}_{11}", (115, 11)),
        ("-37_8", (-31, 8)),
        (r"101_{\text{two}}", (5, 2)),
        ("9_8", None),
        ("x_1", None),
        ("1_1", None),
        ("10_{99}", None),
    ],
)
def test_bases(text: str, value: tuple[int, int] | None):
    numeral = read_based(canonical(text))
    assert (numeral and (numeral.value, numeral.base)) == value


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("1/3", "0.333333", True),
        ("1/3", "0.33333", False),
        ("2/3", "0.666667", True),
        ("2/3", "0.666666", True),
        ("2/3", "0.666668", False),
        ("1/8", "0.125", True),
        ("1/8", "0.1250001", False),
        ("2", "1.9999999", False),
        ("1.25", "1.250", True),
        ("0.142857", "0.14285714", True),
        ("0.000001", "0.0000012", False),
        ("1/3000000", "0.0000003", False),
        ("0.1428571", "0.1428572", False),
    ],
)
def test_decimals(gold: str, answer: str, same: bool):
    ours, theirs = read_numeral(gold), read_numeral(answer)
    assert ours is not None
    assert theirs is not None
    assert same_number(ours, theirs) is same
    assert same_number(theirs, ours) is same


@given(st.fractions(max_denominator=10**6), st.decimals(allow_nan=False, allow_infinity=False, places=7))
def test_fractions_and_decimals_come_back(fraction: Fraction, decimal: Decimal):
    read = read_numeral(canonical(rf"\frac{{{fraction.numerator}}}{{{fraction.denominator}}}"))
    assert read is not None
    assert read.value == fraction
    read = read_numeral(canonical(f"{decimal:f}"))
    assert read is not None
    assert (read.value, read.places) == (Fraction(decimal), 7)
