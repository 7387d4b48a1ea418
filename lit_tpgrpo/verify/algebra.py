r"""Compare two expressions with math-verify, after numerical checks that rule out its false positives.

math-verify 0.9 treats every constant below 1e-15 as zero, rounds decimals to six places, considers all equations without
a solution equal, and ignores the case of letters. Each of these would accept wrong answers, so two expressions are first
evaluated at a few points with 30 digits. Where the values differ, the expressions are different, whatever simplification
says; where they agree, math-verify decides.

Imports sympy, and never torch.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

import sympy
import sympy.core.random
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from lit_tpgrpo.text.answers import balanced
from lit_tpgrpo.verify.match import Match

DIGITS = 30
EXACT, ROUNDED = sympy.Float("1e-20"), sympy.Float("5e-6")
"""Relative tolerances: between exact expressions, and if one of them contains a decimal."""
POINTS = 3

_CONFIG = [
    LatexExtractionConfig(
        # Read only the box: by default, any number elsewhere counts. Units are off: ``units`` handles them (``6m`` is not
        # 6), and math-verify's list takes the letters c, d, h, m, s, t as units.
        try_extract_without_anchor=False,
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
        ),
    )
]
_TOKEN = re.compile(r"\\(?:text|operatorname)\{[^{}]*\}|\\[A-Za-z]+|_\{[^{}]*\}|.", re.DOTALL)


def equal(gold: str, answer: str) -> Match:
    """Compare two canonical expressions or relations with math-verify."""
    # sympy tests for zero at random points: a fixed seed gives the same pair the same verdict every time.
    random.seed(0)
    sympy.core.random.seed(0)
    expected, given = (_read(text) for text in _distinct_case(gold, answer))
    if expected is None or given is None:
        return Match.UNREADABLE
    differ = _relations_differ if isinstance(expected, sympy.logic.boolalg.Boolean) else _values_differ
    if differ(expected, given):
        return Match.DIFFERENT
    same = verify([expected], [given], timeout_seconds=None, raise_on_error=True)
    return Match.SAME if same else Match.DIFFERENT


@lru_cache(maxsize=256)
def _read(text: str) -> sympy.Basic | None:
    if not balanced(text):  # would break out of the box
        return None
    parsed = parse(
        f"\\boxed{{{text}}}",
        extraction_config=_CONFIG,
        extraction_mode="first_match",
        fallback_mode="no_fallback",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]
    )
    return parsed[0] if parsed else None


def _distinct_case(gold: str, answer: str) -> tuple[str, str]:
    r"""Mark letters that math-verify's parser would confuse.

    ``i`` is surrounded by spaces, since the parser reads it as the imaginary unit only then. A capital letter whose
    lower-case letter occurs too gets the index ``_{0}``, since the parser reads both as one symbol.
    """
    tokens: list[list[str]] = [_TOKEN.findall(text) for text in (gold, answer)]
    marked = {"i": " i "}
    for letters in map(set, tokens):
        marked |= {a: f"{a}_{{0}}" for a in letters if len(a) == 1 and a.isupper() and a.lower() in letters}
    first, second = ("".join(marked.get(token, token) for token in side) for side in tokens)
    return first, second


def _values_differ(gold: sympy.Basic, answer: sympy.Basic) -> bool:
    """Return whether two expressions have different values at a point; False if one has no value there."""
    if not isinstance(gold, sympy.Expr) or not isinstance(answer, sympy.Expr):
        return _intervals_differ(gold, answer)
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    tolerance = ROUNDED if gold.has(sympy.Float) or answer.has(sympy.Float) else EXACT
    for point in _points(symbols):
        expected, given = _at(gold, point), _at(answer, point)
        if expected is None or given is None:
            return False
        if sympy.Abs(expected - given) > tolerance * sympy.Max(sympy.Abs(expected), sympy.Abs(given)):
            return True
    return False


def _intervals_differ(gold: sympy.Basic, answer: sympy.Basic) -> bool:
    if isinstance(gold, sympy.Interval) and isinstance(answer, sympy.Interval):
        return _values_differ(gold.start, answer.start) or _values_differ(gold.end, answer.end)
    return False


def _relations_differ(gold: sympy.Basic, answer: sympy.Basic) -> bool:
    """Return whether two relations differ in their variables, or have no variables or solutions that could be compared."""
    if not isinstance(answer, sympy.logic.boolalg.Boolean):
        return False
    if not gold.free_symbols or gold.free_symbols != answer.free_symbols:
        return True
    if isinstance(gold, sympy.Eq) and isinstance(answer, sympy.Eq):
        return not _proportional(gold, answer) and not _solutions(gold)
    return not _solutions(gold) or not _solutions(answer)


def _proportional(gold: sympy.Eq, answer: sympy.Eq) -> bool:
    """Return whether one equation is a constant multiple of the other, judged at a few points."""
    ratios = []
    for point in _points(sorted(gold.free_symbols, key=str)):
        expected, given = (_at(equation.lhs - equation.rhs, point) for equation in (gold, answer))  # pyright: ignore
        if not expected or not given:
            return False
        ratios.append(expected / given)
    return all(sympy.Abs(ratio - ratios[0]) <= EXACT * sympy.Abs(ratios[0]) for ratio in ratios)


def _solutions(relation: sympy.Basic) -> bool:
    try:
        solved = sympy.solve(relation, *relation.free_symbols)
    except Exception:  # sympy raises many types for what it cannot solve; math-verify cannot solve it either
        return False
    return solved != [] and solved is not sympy.true and solved is not sympy.false


def _points(symbols: list[sympy.Basic]) -> list[dict[sympy.Basic, sympy.Basic]]:
    """Return ``POINTS`` positive rational points; a single empty one if there are no symbols."""
    if not symbols:
        return [{}]
    draw = random.Random(0)
    return [{s: sympy.Rational(draw.randint(1000, 9000), 2999) for s in symbols} for _ in range(POINTS)]


def _at(expression: sympy.Expr, point: dict[sympy.Basic, sympy.Basic]) -> sympy.Expr | None:
    """Evaluate an expression at a point to 30 digits; None if the value is not a finite number."""
    try:
        value = expression.subs(list(point.items())).doit().evalf(DIGITS)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:  # sympy raises many types for what it cannot evaluate
        return None
    return value if value.is_number and value.is_finite and not value.free_symbols else None
