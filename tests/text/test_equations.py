from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lit_tpgrpo.text.equations import atoms, extract_equations, is_number, literal_value, normalise
from lit_tpgrpo.text.flattening import flatten


def keys(text):
    return [e.key for e in extract_equations(flatten(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Next, 3 + 5 = 8.", [("3+5", "8")]),
        ("So now 8 × 2 = 16, and 4·5=20", [("8*2", "16"), ("4*5", "20")]),
        ("$x = 1$$2y = 3$", [("x", "1"), ("2y", "3")]),
        ("8 x 2 = 16", [("8*2", "16")]),
        ("a total of 1,200 + 34 = 1,234 apples", [("1200+34", "1234")]),
        (r"so \( r^2 = \frac{20\pi}{4\pi} = 5 \)", [("r^2", "(20π)/(4π)"), ("(20π)/(4π)", "5")]),
        (r"\[ \left(\frac{1}{5}\right)^4 = \frac{1}{625} \]", [("(1/5)^4", "1/625")]),
        (r"$x = \sqrt{5}$ and $4 \cdot r = 3$", [("x", "sqrt(5)"), ("4r", "3")]),
        (r"\(E_{12} = 3x^{2} - 4\)", [("E_12", "3x^2-4")]),
        (r"\boxed{x = 3}", [("x", "3")]),
        (r"17 \equiv 7 \pmod{10}", [("17", "7")]),
        ("$x &= 1 \\\\ y &= 2$", [("x", "1"), ("y", "2")]),
        (r"\$3 + \$4 = \$7, i.e. 50\% = 1/2", [("3+4", "7"), ("50%", "1/2")]),
        ("-3 - -4 = 1", [("-3--4", "1")]),
        ("f(x) = x^2+1 and 2(29) + 4 = 62", [("f(x)", "x^2+1"), ("2(29)+4", "62")]),
        # Not equations between expressions that can be read.
        ("x <= 5, y != 3, n >= 4, m := 2, a == 3", []),
        (r"n \leq 5, k \neq 3, n \ne 4", []),
        ("the area = length times width", []),
        ("it is 5. = 3", []),
        ("so we have = 4", []),
        # Words are no names.
        ("so a = 5 and I = 3", [("a", "5"), ("I", "3")]),
        ("it is = 5", []),
        ("10cm = 100 mm", []),
    ],
)
def test_equations_in_text(text, expected):
    assert keys(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "1 + 2 + ... + 10 = 55.",
        "2,3,6,7=18.",
        "total2+4+9=15 coins",
        "720 bricks * 2 = 1440 bricks",
        r"x_1 + \cdots + x_n = 5",
        r"\sum_{k=1}^{10} k = 55",
        "y = 2 x + 1",
        "2 k = 6",
        "sin x = 1 and 6 mod x = 2",
        "|x - 3| = 5",
        "f (x) = 5",
        "P(x = 3)",
        "x = 3.14... and x = 1,2,3",
        "x = 4 - sin x",
        "x = 4 choose y",
    ],
)
def test_a_piece_of_something_longer_is_no_equation(text):
    assert keys(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"(1/4) \* 1 = 1/4.", [("(1/4)*1", "1/4")]),
        ("- 3p + e = 124", [("3p+e", "124")]),
        ("1) 3x = 5 (given)", [("3x", "5")]),
        ("**x = 3** and **Answer:** $y=5$", [("x", "3"), ("y", "5")]),
        (r"$x = 1 \quad y = 3$", [("x", "1"), ("y", "3")]),
        ("x = 5 a contradiction", [("x", "5")]),
        ("x = 3 - which is fine", [("x", "3")]),
        (r"$x = 60^\circ$, $y = 5^{\circ}$", [("x", "60°"), ("y", "5°")]),
        ("[3+4 = 7] <<48/2=24>>", [("3+4", "7"), ("48/2", "24")]),
        ("the equation (2x + 3y)^2 = 4", [("(2x+3y)^2", "4")]),
        ("| sum | 3 + 5 = 8 |", [("3+5", "8")]),
    ],
)
def test_what_stands_beside_a_whole_equation(text, expected):
    assert keys(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Working modulo 10, 7 * 8 = 6, so 6 / 3 = 2. But 7 * 8 = 56.", [("mod 10", ""), ("mod 10", ""), ("", "")]),
        ("7 * 8 = 6 modulo 10", [("mod 10", "")]),
        ("In base 5: 3 + 4 = 12, and 3 + 4 = 7 (base 10)", [("base 5", ""), ("base 10", "")]),
        ("In binary, 10 + 10 = 100.\nHence 1 + 1 = 2", [("binary", ""), ("", "")]),
        ("On a 12-hour clock 11 + 3 = 2", [("clock", "")]),
        ("The base 6 times the height: 6 * 4 = 24 square feet", [("", "square foot")]),
        ("2 * 60 = 120 minutes and 3 * 60 = 180 mins", [("", "minute"), ("", "minute")]),
        ("2 + 3 = 5 apples", [("", "")]),
    ],
)
def test_the_context_and_unit_of_a_number(text, expected):
    assert [(e.context, e.unit) for e in extract_equations(flatten(text))] == expected


def test_congruences_are_told_from_equations():
    found = extract_equations(flatten(r"$7^2 \equiv 9$, 7^2 = 9 (mod 10), 7^2 = 49"))
    assert [e.congruence for e in found] == [True, True, False]


def test_spans_are_where_the_equation_stands():
    flat = flatten(r"Wait, \(8 \times 2 = 4\) is wrong.")
    (equation,) = extract_equations(flat)
    assert flat[equation.start : equation.end] == "8 * 2 = 4"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{5}", "1/5"),
        (r"\dfrac{1}{5}", "(1)/(5)"),
        (r"\frac12", "1/2"),
        (r"\frac{\frac{1}{2}}{x+1}", "(1/2)/(x+1)"),
        (r"4 \cdot r", "4r"),
        ("((3 + 5))", "3+5"),
        (r"\left( x + 1 \right)^{2}", "(x+1)^2"),
        (r"2{,}500", "2,500"),
        ("3 − 4", "3 - 4"),
        (r"\text{ }x^{12}", "x^(12)"),
    ],
)
def test_equal_expressions_are_normalised_alike(one, other):
    assert normalise(flatten(one)) == normalise(flatten(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3(2)", "32"),
        ("(3)2", "32"),
        ("(-2)^2", "-2^2"),
        ("8*2", "82"),
        ("x^(n+1)", "x^n+1"),
        ("(1+2)*(3+4)", "1+2*3+4"),
    ],
)
def test_different_expressions_stay_different(one, other):
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("nest", [10, 6_000])
def test_needless_brackets_go_as_far_as_eight_passes_take_them(nest):
    # A pass takes two pairs off ((...(3+x)...)), the inner and the outer one.
    left = max(0, nest - 16)
    assert normalise("(" * nest + "3 + x" + ")" * nest) == "(" * left + "3+x" + ")" * left


def test_atoms_leave_exponents_and_functions_out():
    assert atoms("3x^2+41y-sqrt(5)") == {"3", "x", "41", "y", "5"}
    assert atoms("8*2") == {"8", "2"}


def test_is_number():
    assert is_number("3+sqrt(5)/2")
    assert not is_number("3+x")
    assert not is_number("2π")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-3", -3),
        ("0.5", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        ("50%", Fraction(1, 2)),
        ("60°", 60),
        ("1/0", None),
        ("x", None),
        ("1+1", None),
        ("sqrt(4)", None),
        ("", None),
        ("٣", None),
        ("9" * 41, None),
    ],
)
def test_literal_value(text, value):
    assert literal_value(text) == value


@settings(deadline=None)
@example(text="0=()")
@given(text=st.text() | st.text("1ax+*^=()\\{}$.,% \n'", max_size=80))
def test_any_text_can_be_read(text):
    flat = flatten(text)
    for equation in extract_equations(flat):
        assert equation.lhs
        assert equation.rhs
        assert "=" in flat[equation.start : equation.end]
        atoms(equation.lhs)
        literal_value(equation.rhs)
