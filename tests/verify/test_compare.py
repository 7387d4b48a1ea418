"""Gold against answer, kind by kind: what users met, and its siblings. The right outcome is worked out by hand."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.verify.algebra import equal
from lit_tpgrpo.verify.compare import compare, nesting
from lit_tpgrpo.verify.match import Match

SAME, DIFFERENT, UNREADABLE = Match.SAME, Match.DIFFERENT, Match.UNREADABLE

# Kinds of fault that users met, (gold, answer, what is right).
REPORTED = {
    "equations without a free symbol": [
        ("f(3)=7", "f(3)=8", DIFFERENT),
        (r"\log_2 32=5", r"\log_2 32=6", DIFFERENT),
        (r"\cos 0=1, \sin 0=0", r"\cos 0=1, \sin 0=1", DIFFERENT),
        ("2+3=5", "2+3=6", DIFFERENT),
        (r"\binom{5}{2}=10", r"\binom{5}{2}=11", DIFFERENT),
        (r"P(2)=\frac{1}{2}", r"P(2)=\frac{1}{3}", DIFFERENT),
        ("f(3)=7", "7", SAME),
        (r"x=1 \quad y=2", r"x=3 \quad y=2", DIFFERENT),
    ],
    "base subscripts": [
        ("52_8", "52_9", DIFFERENT),
        ("1200_7", "1200_3", DIFFERENT),
        ("4210_{5}", "4210_{7}", DIFFERENT),
        ("141_{13}", "141_3", DIFFERENT),
    ],
    "tiny numbers": [
        (r"1.6 \times 10^{-19}", r"9.1 \times 10^{-31}", DIFFERENT),
        (r"\frac{1}{2004!}", r"-\frac{1}{2004!}", DIFFERENT),
        ("0.000000001", "0.000000002", DIFFERENT),
    ],
    "multiplicity and order lost": [
        ("16,3,1,1", "16,3,1", DIFFERENT),
        ("-2,-2", "-2", DIFFERENT),
        ("x=1,y=2", "2,1", DIFFERENT),
    ],
    "alike but for layout, unreadable": [
        ("b>a>c", "b > a > c", SAME),
        (r"\{x \mid 2\le x<5\}", r"\{x \mid 2\leq x<5\}", SAME),
        ("第一象限", r"\text{第一象限}", SAME),
        (r"x \equiv 3 \pmod{7}", r"x \equiv 3 \pmod 7", SAME),
        (r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", r"\dfrac{1}{3}E_1+\dfrac{2}{3}E_2", SAME),
        (r"m_{\max }=n^{2}-n-1", r"m_{\max}=n^2-n-1", SAME),
    ],
    "plus-minus in a fraction": [
        (r"\frac{1\pm\sqrt5}{2}", r"\frac{1+\sqrt5}{2},\frac{1-\sqrt5}{2}", SAME),
        (r"\frac{1\pm\sqrt5}{2}", r"\dfrac{1 \pm \sqrt{5}}{2}", SAME),
        (r"x=0, \frac{5 \pm \sqrt{61}}{18}", r"0, \frac{5+\sqrt{61}}{18}, \frac{5-\sqrt{61}}{18}", SAME),
    ],
    "degree sign": [
        ("90", "90°", SAME),
        (r"90^\circ", "90°", SAME),
        ("125°", r"125^\circ", SAME),
        (r"5^\circ", r"5\degree", SAME),
    ],
    "other unicode": [
        (r"\sqrt{2}", "√2", SAME),
        (r"\frac12", "½", SAME),
        ("x^2", "x²", SAME),
        ("(1,2)", "（1,2）", SAME),
        ("(1, 2)", "(1，2)", SAME),
        ("42", "42。", SAME),
    ],
    "units as plain words": [
        ("10", "10 weeks", SAME),
        ("5 dollars", "5", SAME),
        ("10 cm^2", "10", SAME),
        ("12", "12 people", SAME),
        ("12 points", "12", SAME),
        ("42", "42 元", SAME),
        ("9 (apples)", "9", SAME),
    ],
    "upright i and e, i as a factor": [
        (r"4-\mathrm{i}", "4-i", SAME),
        (r"1+2\mathrm{i}", "1+2i", SAME),
        (r"1-\frac{1}{\mathrm{e}}", r"1-\frac{1}{e}", SAME),
        ("e^{2}", r"\mathrm{e}^2", SAME),
        ("2i", r"2\cdot i", SAME),
    ],
    "choice letter with its option": [
        (r"\text{(C)}", r"\textbf{(C)}\ 5", SAME),
        ("A", "A. 5", SAME),
        ("A", "A)", SAME),
        ("B", r"\text{B. 12}", SAME),
        (r"\textbf{(B) } 12", "B", SAME),
    ],
    "several letters": [
        ("ABC", "A,B,C", SAME),
        ("A,B", "AB", SAME),
        ("A, C", r"\text{A and C}", SAME),
    ],
    "currency signs": [
        ("5", "€5", SAME),
        ("5", "£5", SAME),
        ("5", "¥5", SAME),
        ("5", "USD 5", SAME),
    ],
    "aligned and cases in the box": [
        ("5", r"\begin{aligned}x&=5\end{aligned}", SAME),
        ("(1,2)", r"\begin{cases} x=1 \\ y=2 \end{cases}", SAME),
    ],
    "leading words and signs": [
        ("5", r"\approx 5", SAME),
        ("3.14", r"\approx 3.14", SAME),
        ("5", "= 5", SAME),
        ("5", r"\therefore 5", SAME),
        ("5", r"\text{The answer is } 5", SAME),
    ],
    "names of sets": [
        (r"\emptyset", r"\varnothing", SAME),
        (r"\mathbb{R}", r"\text{all real numbers}", SAME),
        (r"\text{no solution}", r"\emptyset", SAME),
    ],
    "inequality for an interval": [
        ("[2,5)", r"2 \le x < 5", SAME),
        (r"[2,\infty)", r"x \ge 2", SAME),
        (r"(-\infty,2)\cup(3,\infty)", r"x<2 \text{ or } x>3", SAME),
    ],
    "vectors": [
        ("(1,2)", r"\langle 1,2\rangle", SAME),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)", SAME),
    ],
    "plain mixed numbers": [
        (r"\frac{3}{2}", "1 1/2", SAME),
        ("1 1/2", r"\frac{3}{2}", SAME),
    ],
    "clock times": [
        ("3:30 PM", "3:30", SAME),
        ("12:00", r"12:00 \text{ noon}", SAME),
        ("4:30", "4:30 PM", SAME),
    ],
    "e-notation": [
        ("3.89e-10", r"3.89 \times 10^{-10}", SAME),
        ("6e33", r"6 \times 10^{33}", SAME),
        ("1.5e3", "1500", SAME),
        ("1000000", "1e6", SAME),
    ],
    "a negated relation": [
        ("3", r"x \not= 3", DIFFERENT),
        ("3", r"x \not = 3", DIFFERENT),
        ("3", r"x \not{=} 3", DIFFERENT),
        ("3", r"x \not\mathrel{=} 3", DIFFERENT),
        ("3", r"x \not\approx 3", DIFFERENT),
        (r"\{3\}", r"x \not= 3", DIFFERENT),
        (r"(-\infty,3)", r"x \not< 3", DIFFERENT),
        (r"[1,2]", r"x \not\in [1,2]", DIFFERENT),
        (r"x \neq 3", r"x \not= 3", SAME),
        (r"x \neq 3", r"x \not\approx 3", UNREADABLE),
        (r"x \notin [1,2]", r"x \not\in [1,2]", SAME),
        (r"x \not\leq 3", r"x \nleq 3", SAME),
        ("3", "n != 3", DIFFERENT),
        ("3", "n!=3", DIFFERENT),
        ("3", "3 != n", DIFFERENT),
        (r"x \neq 3", "x != 3", SAME),
        ("120", "5!=120", SAME),
        ("120", "5! = 120", SAME),
        ("3", r"\neg x = 3", DIFFERENT),
        (r"(-\infty,3)", r"\neg x < 3", DIFFERENT),
        ("3", r"x \text{ is not } = 3", DIFFERENT),
        ("3", r"\text{not } x = 3", DIFFERENT),
        ("0.3", r"P(\neg A) = 0.3", SAME),
        ("0.3", r"P(\text{not } A) = 0.3", SAME),
        ("0.3", r"\text{probability of not losing} = 0.3", SAME),
    ],
    "an equation that is not solved": [
        ("5", "-x=5", DIFFERENT),
        ("7", "2x=7", DIFFERENT),
        ("7", "7x=7", DIFFERENT),
        ("5", r"0 \cdot x = 5", DIFFERENT),
        ("7", r"\sqrt{x}=7", DIFFERENT),
        ("7", r"\sqrt[3]{x}=7", DIFFERENT),
        ("7", r"\log x = 7", DIFFERENT),
        ("7", r"\log_2 x = 7", DIFFERENT),
        ("7", r"\ln(x) = 7", DIFFERENT),
        ("7", r"\cot x = 7", DIFFERENT),
        ("9", "x^2=9", DIFFERENT),
        ("9", "x_1^2=9", DIFFERENT),
        ("8", "2^n=8", DIFFERENT),
        ("3", "x-2=3", DIFFERENT),
        ("3", r"\frac{x}{2}=3", DIFFERENT),
        ("3", r"\frac{1}{x}=3", DIFFERENT),
        ("3", "x/2=3", DIFFERENT),
        ("3", "2(x+1)=3", DIFFERENT),
        ("3", r"-\theta=3", DIFFERENT),
        ("60", r"2x^\circ=60^\circ", DIFFERENT),
        ("9", r"x^2 \approx 9", DIFFERENT),
        ("7", r"2x = 7 \approx 7.0", DIFFERENT),
        ("6", "n! = 6", DIFFERENT),
        ("0", "x^2-5x+6=0", DIFFERENT),
        ("7,8", "2x=7, y=8", DIFFERENT),
        (r"\{7\}", "2x=7", DIFFERENT),
    ],
    "a quantity of several letters or a call": [
        ("7", "a+b=7", SAME),
        ("7", "x_1+x_2=7", SAME),
        ("7", "xy=7", SAME),
        ("7", "f(2)=7", SAME),
        ("7", "f^{-1}(2)=7", SAME),
        ("8", "f(2)+1=8", SAME),
        ("7", "P(A)=7", SAME),
        ("7", "2+5=7", SAME),
        ("7", "x_1=7", SAME),
        ("7", "+x=7", SAME),
        ("7", "(x)=7", SAME),
        ("7", r"\angle ABC = 7", SAME),
        ("30", r"x^\circ = 30^\circ", SAME),
        ("7", "AB=7", SAME),
        ("7", "AB^2=7", SAME),
        ("7", "|AB|=7", SAME),
        ("7", "|z|=7", SAME),
        ("7", r"x+\frac{1}{x}=7", SAME),
        (r"\frac{3}{5}", r"\sin A=\frac{3}{5}", SAME),
        (r"\frac{3}{5}", r"\cos 2\theta=\frac{3}{5}", SAME),
        ("-4", "(1+i)^4=-4", SAME),
        ("26", "1A_{16}=26", SAME),
        ("20", r"4s=4 \cdot 5=20", SAME),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"A^{-1}=\begin{pmatrix}1&2\\3&4\end{pmatrix}", SAME),
    ],
}  # fmt: skip

# Siblings of these kinds.
SIBLINGS = [
    ("f(3)=7", "f(4)=7", DIFFERENT),
    ("f(3)=7", "g(3)=7", DIFFERENT),
    ("f(3)=7", "f(3)=6+1", SAME),
    ("f(3)=7", "8", DIFFERENT),
    ("2+3=5", "5=2+3", SAME),
    ("x^2+1=0", "x^2+2=0", DIFFERENT),
    ("1<2", "3<4", DIFFERENT),
    ("x + y + z = 0", "0", DIFFERENT),
    ("x + y + z = 0", "x+y=-z", SAME),
    ("x=5", "5", SAME),
    ("x=5", "y=5", DIFFERENT),
    ("x=5", "x=2+3=5", SAME),
    ("x=5", "x=3=5", DIFFERENT),
    ("3", "2=3", DIFFERENT),
    ("3", "2+1=3", SAME),
    ("3", "x=3", SAME),
    ("y^2-4x-6y+9=0", "0", DIFFERENT),
    ("y = 2x+3", "y=3+2x", SAME),
    ("y = 2x+3", "2x-y+3=0", SAME),
    ("y = 2x+3", "y=2x-3", DIFFERENT),
    ("f(n)=2n+1007", "f(x)=2x+1007", SAME),
    ("f(n)=2n+1007", "f(x)=2x+1008", DIFFERENT),
    ("x^2+y^2=1", "x^2+y^2=2", DIFFERENT),
    ("52_8", "52", SAME),
    ("52_8", "42", DIFFERENT),
    ("42", "52_8", DIFFERENT),
    ("52_8", "53_8", DIFFERENT),
    ("52_8", "052_8", SAME),
    (r"\text{A5}_{11}", "A5_{11}", SAME),
    (r"\text{A5}_{11}", "A6_{11}", DIFFERENT),
    ("0.000001", "0.0000012", DIFFERENT),
    ("1e-7", "0.0000001", SAME),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", DIFFERENT),
    (r"\frac{1}{2^{99}}", "2^{-99}", SAME),
    (r"\frac{x}{2^{99}}", r"\frac{x}{2^{98}}", DIFFERENT),
    ("1,2", "2,1", SAME),
    ("1,2,2", "1,1,2", DIFFERENT),
    ("(1,2)", "(2,1)", DIFFERENT),
    ("(1,2)", "1,2", SAME),
    ("(1,2)", "2,1", DIFFERENT),
    ("[1,2)", "1,2", DIFFERENT),
    ("[1,2)", "(1,2]", DIFFERENT),
    ("x=1,y=2", "y=2,x=1", SAME),
    ("x=1,y=2", "x=2,y=1", DIFFERENT),
    ("x=1,y=2", "1,2", SAME),
    ("x=1,y=2", "(1,2)", SAME),
    ("11:30", "11/30", DIFFERENT),
    ("11:30", "11:31", DIFFERENT),
    ("3:30 PM", "3:30 AM", DIFFERENT),
    ("1:4", r"\frac{1}{4}", SAME),
    ("1:2:3", "2:4:6", SAME),
    ("1:2:3", "1:3:2", DIFFERENT),
    ("1:2:3", "1/6", DIFFERENT),
    (r"4\!:\!51\!:\!06 \text{ p.m.}", "4:51:06", SAME),
    (r"05\!:\!00", "5:00", SAME),
    ("6m", "6", DIFFERENT),
    ("2t", "2", DIFFERENT),
    ("5 cm", "5 m", DIFFERENT),
    (r"5 \text{ cm}", r"5 \text{ cm}^2", DIFFERENT),
    (r"32\text{ square cm}", r"32\text{ cm}^2", SAME),
    ("5", "5 million", DIFFERENT),
    (r"5 \text{ dollars}", r"\$5", SAME),
    ("€5", "£5", DIFFERENT),
    ("50", r"50\%", SAME),
    ("0.5", r"0.5\%", DIFFERENT),
    ("0.5", r"50\%", SAME),
    (r"12.5\%", "12.5", SAME),
    ("1", r"1\%", DIFFERENT),
    (r"90^\circ", r"91^\circ", DIFFERENT),
    ("0", "1 000", DIFFERENT),
    ("1000", "1 000", SAME),
    ("5", "5 or 6", DIFFERENT),
    ("5", "5, 6", DIFFERENT),
    ("even", "neve", DIFFERENT),
    (r"\text{even}", "odd", DIFFERENT),
    (r"\text{Evelyn}", "evelyn", SAME),
    ("abc", "bca", SAME),
    ("ABC", "ACB", DIFFERENT),
    ("C", "(C)", SAME),
    ("C", "(B)", DIFFERENT),
    ("A", "A. 5 or B", DIFFERENT),
    ("A", "A) B) C)", UNREADABLE),
    (r"\textbf{(B) } 12", "(B) 13", DIFFERENT),
    ("12", "(B) 12", SAME),
    (r"\text{A,B,C,D}", "ABCD", SAME),
    (r"\text{B,E}", "E, B", SAME),
    (r"\text{Softball, Kickball, Picnic}", "Kickball, Softball, Picnic", DIFFERENT),
    (r"\text{Softball, Kickball, Picnic}", "softball, kickball, picnic", SAME),
    (r"\frac{1\pm\sqrt5}{2}", r"\frac{1+\sqrt5}{2}", DIFFERENT),
    (r"\frac{1\pm\sqrt5}{2}", r"\frac{1\mp\sqrt5}{2}", SAME),
    (r"1\pm 2", "3,-1", SAME),
    (r"\pm 2", "2,-2", SAME),
    (r"x=\pm 2", r"\pm 2", SAME),
    ("[2,5)", r"2 \le x \le 5", DIFFERENT),
    ("[2,5)", r"5 > x \ge 2", SAME),
    ("x<2", "2>x", SAME),
    ("x<2", "x<3", DIFFERENT),
    ("x<2", "y<2", DIFFERENT),
    ("b>a>c", "c<a<b", SAME),
    ("b>a>c", "a>b>c", DIFFERENT),
    (r"-80\leq g(x)\leq 82", "[-80,82]", SAME),
    (r"k \geqslant 2", r"[2,\infty)", SAME),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", SAME),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty,2]\cup(3,\infty)", DIFFERENT),
    (r"(-\infty,1)\cup(1,\infty)", r"\mathbb{R}\setminus\{1\}", SAME),
    (r"(-\infty,\infty)", r"\text{all real numbers}", SAME),
    (r"\emptyset", r"\mathbb{R}", DIFFERENT),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", SAME),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)", DIFFERENT),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & \phantom -1 \end{pmatrix}", r"\begin{pmatrix} -1 & 0 \\ 0 & 1 \end{pmatrix}", SAME),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", DIFFERENT),
    ("1+2i", "2i+1", SAME),
    ("1+2i", "1-2i", DIFFERENT),
    ("2+i", "i+2", SAME),
    ("(w-2)(w+2)(w^2+4)", "w^4-16", SAME),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", SAME),
    ("Rr", "r^2", DIFFERENT),
    (r"\frac{N}{2}", "n/2", SAME),
    (r"2 \sqrt{2}-2", r"2\sqrt2-2", SAME),
    (r"-\frac{1}{3}", r"\frac{-1}{3}", SAME),
    (r"\pi", "3.141593", SAME),
    (r"\pi", "3.14159", DIFFERENT),
    ("1/3", "0.333333", SAME),
    ("1/3", "0.33", DIFFERENT),
    ("5x - 7y + 11z + 4 = 0", "5x-7y+11z=-4", SAME),
    ("5x - 7y + 11z + 4 = 0", "5x-7y+11z+5=0", DIFFERENT),
    (r"\{1,2\}", "2, 1", SAME),
    (r"\{1,2\}", "(1,2)", DIFFERENT),
    ("5", r"\{5\}", SAME),
    ("5", "(5)", SAME),
    (r"x \in \{1,2\}", "1,2", SAME),
    (r"x \in [1,2]", "[1,2]", SAME),
    (r"x \equiv 3 \pmod 7", r"x \equiv 4 \pmod 7", DIFFERENT),
    ("7", r"7 \approx 8", SAME),
    ("8", r"7 \approx 8", DIFFERENT),
    ("8.24", r"x \approx 8.24", SAME),
    ("1,2", r"1 \quad 2", SAME),
    ("5", r"\text{Answer: 5}", SAME),
    ("5", r"\text{Answer: } 6", DIFFERENT),
    ("5", r"\text{not } 5", DIFFERENT),
    (r"137 \frac{1}{2}", "137.5", SAME),
    (r"10,\!080", "10080", SAME),
    ("$69$,$84$", "84, 69", SAME),
    ("2RC+R+C", "R+C+2RC", SAME),
    ("a + b + c", "a + b + d", DIFFERENT),
    (r"\sin^2 y", r"1-\cos^2 y", SAME),
    (r"\lfloor\sqrt{n-1}\rfloor", r"\lfloor \sqrt{n-1} \rfloor", SAME),
    (r"\lceil n / 2\rceil+1", r"\lceil n/2\rceil+2", DIFFERENT),
    (r"m_{\max }=n^{2}-n-1", "n^2-n-1", SAME),
    (r"\frac{100!}{2^{50}}", r"\frac{100!}{2^{51}}", DIFFERENT),
    (r"2021 \cdot 505 \cdot 337", "343943885", SAME),
    (r"2021 \cdot 505 \cdot 337", "343925886", DIFFERENT),
    ("x^2 + y^2 = 4", "4", DIFFERENT),
    ("10^{100},10^{1/100}", "10^{1/100}, 10^{100}", SAME),
    ("5", "5 squared", DIFFERENT),
    ("5", r"5 \text{ squared}", DIFFERENT),
    ("5", "5 dozens", DIFFERENT),
    ("5", "5 tenths", DIFFERENT),
    ("5", "5万", UNREADABLE),
    ("5", r"5 \text{ millions}", DIFFERENT),
    ("3", "3 quarters", DIFFERENT),
    ("9", "9 (twelve)", DIFFERENT),
    (r"0.\overline{1}", r"0.\overline{2}", DIFFERENT),
    (r"0.\overline{1}", r"0.\overline{1}", SAME),
    ("y'+y", "y+y", DIFFERENT),
    (r"1+2+\ldots+10", "1+2+10", UNREADABLE),
    ("2^{100}", "2^{100}+1", DIFFERENT),
    ("10^{25}+x", "10^{25}+x+1", DIFFERENT),
    ("42", "42 元", SAME),
    (r"0.\overline{3}", r"\frac{1}{3}", SAME),
    ("5", r"\text{The answer is } 5 \text{ or } 6", DIFFERENT),
    ("5", r"5 \text{ (not 6)}", DIFFERENT),
    ("12", r"12 \text{ and } 13", DIFFERENT),
    ("5", "|5|", SAME),
    ("5", r"5\phantom{6}", SAME),
    (r"\frac{1}{2}", r"\frac{1}{2} \text{ or } \frac{1}{3}", DIFFERENT),
    ("5", r"\{5,6\}", DIFFERENT),
    ("5", "[5,6]", DIFFERENT),
    ("5", r"x \in \{5\}", SAME),
    ("5", "5_{6}", DIFFERENT),
    ("5", "x>4", DIFFERENT),
    ("5", "4<x<6", DIFFERENT),
    ("5", r"x \neq 5", DIFFERENT),
    ("2,3", "2<x<3", DIFFERENT),
    ("5", "5+0x", SAME),
    ("5", r"\pm 5", DIFFERENT),
    ("5", r"5 \pm 0", DIFFERENT),
    ("0", r"\sqrt{0}", SAME),
    (r"\frac{1}{3}", "0.3", DIFFERENT),
    ("7", "x", DIFFERENT),
    ("x", "y", DIFFERENT),
    ("a", "A", SAME),
    ("B", "b", SAME),
    (r"\text{yes}", r"\text{no}", DIFFERENT),
    ("5", r"\boxed{5}", SAME),
    ("10", r"10\text{ }(\text{not }11)", DIFFERENT),
    ("x=5", "x=5, x=6", DIFFERENT),
    ("x=5, x=6", "x=5", DIFFERENT),
    ("5", "f(x)=5", SAME),
    ("(1,2)", "(1,2),(3,4)", DIFFERENT),
    (r"\infty", r"-\infty", DIFFERENT),
    ("6", r"\text{six}", DIFFERENT),
    ("100", "1{,}00", DIFFERENT),
    ("1234", "12,34", DIFFERENT),
    ("2<x<3", "2,3", DIFFERENT),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """math-verify warns once that its time limit is off."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", REPORTED)
def test_reported(kind: str):
    assert [(g, a, compare(g, a, equal)) for g, a, _ in REPORTED[kind]] == REPORTED[kind]


@pytest.mark.parametrize(("gold", "answer", "expected"), SIBLINGS)
def test_siblings(gold: str, answer: str, expected: Match):
    assert compare(gold, answer, equal) is expected


NUMBERS = st.integers(-30, 30).map(str) | st.sampled_from([r"\frac{1}{3}", "0.25", r"\sqrt{2}", "x", r"2\pi"])
PARTS = st.lists(NUMBERS, min_size=2, max_size=4, unique=True)


@given(PARTS, st.randoms(use_true_random=False))
def test_lists_have_no_order_and_tuples_have(parts: list[str], random):
    shuffled = random.sample(parts, len(parts))
    assert compare(", ".join(parts), ", ".join(shuffled), equal) is SAME
    same_order = SAME if shuffled == parts else DIFFERENT
    assert compare(f"({','.join(parts)})", f"({','.join(shuffled)})", equal) is same_order


@given(PARTS)
def test_multiplicity_counts(parts: list[str]):
    assert compare(", ".join(parts), ", ".join([*parts, parts[0]]), equal) is DIFFERENT
    assert compare(", ".join([*parts, parts[0]]), ", ".join([*parts, parts[1]]), equal) is DIFFERENT


def unread(gold: str, answer: str) -> Match:
    return UNREADABLE


@given(st.text(alphabet=r"\{}()[],;=<>|^_&$.:%!'- 019ABabix√½°", max_size=40))
def test_any_text_equals_itself_or_is_unreadable(text: str):
    assert compare(text, text, unread) in (SAME, UNREADABLE)


@pytest.mark.parametrize(
    "bomb",
    ["(" * 5000 + "1", "{" * 5000 + "1", r"\sqrt" * 5000 + "2", r"\sqrt[" * 2000, "^" * 5000, "1," * 3000, "x=" * 900 + "1",
     "-" * 4000 + "1", "9" * 5000, "1e999999999", r"10^{999999999}", r"\text{" * 3000, r"\pm" * 2000, "|" * 4000,
     "x_{" + r"\text{a}" * 200 + "}!=1",
     "\\\\" * 3000],
)  # fmt: skip
def test_bombs_are_read_or_refused(bomb: str):
    assert compare("5", bomb, unread) in (DIFFERENT, UNREADABLE)


@pytest.mark.parametrize("opening", ["(x=", "(", "{", r"\{", "[2,"])
def test_brackets_in_brackets_without_end_are_not_read(opening: str):
    """How deep our own stack is must not decide: the 300th equation in an equation raised RecursionError."""
    text = opening * 300 + "5"
    assert compare(text, text[:-1] + "6", no_mathematics) is Match.UNREADABLE


def no_mathematics(gold: str, answer: str) -> Match:
    raise AssertionError("asked for mathematics")


def test_nesting_is_that_of_brackets_open_at_once():
    assert [nesting(text) for text in ("5", "(1,2)", r"\frac{(a)}{[b]}", "))((", "()()", r"\{(1,2),(3,(4))\}")] == [
        0,
        1,
        2,
        2,
        1,
        3,
    ]
