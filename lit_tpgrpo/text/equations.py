"""Extract equations from running text, plain or LaTeX, so that equal statements compare equal (paper, Stage I).

An equation is extracted as a whole or not at all: ``1 + 2 + ... + 10 = 55`` gives none, since ``10 = 55`` is not what it says.

Nothing is calculated: ``8 * 2 = 4`` is an equation like any other. Expressions are compared as normalised strings, so
``\\frac{1}{5}`` equals ``1/5`` and ``4 \\cdot r`` equals ``4r``, but ``2 + 3`` does not equal ``3 + 2``: a solver who
refers to a statement repeats it as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_GREEK_NAMES = "alpha beta gamma delta epsilon theta lambda mu pi rho sigma phi omega Delta Omega"
_GREEK = dict(zip(_GREEK_NAMES.split(), "αβγδεθλμπρσφωΔΩ", strict=True))
# The order matters: escaped symbols come before the signs that they contain.
_SYMBOLS = (
    (re.compile(r"\\[$%]"), lambda m: "%" if m[0] == r"\%" else ""),
    (re.compile(r"\\([*_])"), r"\1"),  # Markdown's escapes
    (re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:!?)]|$)"), " "),  # bold type in Markdown
    (re.compile(r"\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![a-zA-Z]))"), "°"),
    (re.compile(r"[‘’]"), "'"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"\{,\}|(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])"), ""),
    (re.compile(r"\\\\(?:\[[^\]\n]{0,20}\])?"), "\n"),
    (re.compile(r"\\(?:[()\[\],;:! ]|q?quad\b)|[$&~]"), " "),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·∙]|\*\*?"), lambda m: "^" if m[0] == "**" else "*"),
    (re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    (re.compile(r"\\equiv(?![a-zA-Z])"), "≡"),
    (re.compile(r"\\approx(?![a-zA-Z])|≈"), "="),
    (re.compile(r"\\(?:neq?|not\s*=)(?![a-zA-Z])|!=(?=\s)"), "≠"),
    (re.compile(r"\\(?:pmod|bmod|mod)(?![a-zA-Z])"), " mod "),
    (re.compile(r"\\(" + "|".join(_GREEK) + r")(?![a-zA-Z])\s?"), lambda m: _GREEK[m[1]]),
    (re.compile(r"(?<=\d)\s+x\s+(?=\d)"), "*"),
)
# Applied from the innermost braces outwards.
_GROUPS = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r"(\1/\2)"),
    (re.compile(r"\\sqrt\s*\{([^{}]*)\}"), r"sqrt(\1)"),
    (re.compile(r"\\(?:boxed|fbox|text\w*|math\w+|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"^(\1)"),
    (re.compile(r"_\s*\{([^{}]*)\}"), lambda m: "_" + re.sub(r"\W", "", m[1])),
)
_MAX_NESTING = 8

_WORDS = "is|so|we|an|as|at|be|by|do|go|he|if|in|it|me|my|no|of|oh|ok|on|or|to|up|us|am|hm|vs|th|st|nd|rd|cm|km|kg"
# Quantifiers are possessive: otherwise a run of digits could be split in exponentially many ways.
_NAME = rf"(?<![A-Za-z])(?!(?:{_WORDS})(?![A-Za-z]))(?:[A-Za-z]{{1,2}}+|[α-ωΔΩ])(?![A-Za-z])(?:_\w++)?+'*+"
_NUMBER = r"\d++(?:\.\d++)?+[%°]?+"
_INSIDE = r"(?:[-+*/^.,!'\s\d_]|(?<![A-Za-z])[A-Za-z]{1,3}(?![A-Za-z])|sqrt|[α-ωΔΩ])"
_PARENS = rf"\({_INSIDE}*+(?:\((?:{_INSIDE}*+(?:\({_INSIDE}*+\){_INSIDE}*+)*+)\){_INSIDE}*+)*+\)"
_CALL = rf"(?:sqrt|sin|cos|tan|log|ln|exp|gcd|lcm|max|min)\s?{_PARENS}"
_FACTOR = rf"(?>(?:{_CALL}|{_PARENS}|{_NUMBER}|{_NAME})!?+(?:\^-?(?:{_PARENS}|{_NUMBER}|{_NAME}))?+)"
_TERM = rf"[-+]?+{_FACTOR}++"
_EXPRESSION = re.compile(rf"(?<![\w.^])(?>{_TERM}(?:\s*[-+*/^]\s*{_TERM})*+)")
_EQUALS = re.compile(r"\s*([=≡])\s*")
_ATOM = re.compile(rf"(?P<power>\^-?(?:{_NUMBER}|{_NAME}))|{_NUMBER}|{_NAME}")
_LITERAL = re.compile(r"(?P<over>-?\d{1,40}(?:\.\d{1,40})?)(?:/(?P<under>\d{1,40}))?(?:(?P<percent>%)|°)?", re.ASCII)


# An expression with one of these before or after it is part of a longer one. Spaces matter: "a) x = 5" begins a list item,
# "(1)x" is a product.
_OPERATIONS = (
    "times|plus|minus|over|choose|divided by|multiplied by|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|gcd|lcm|det|dim|max"
    "|min|lim|sum|prod|int|deg|arg|rank|ker|binom|frac|[lc]?dots|factorial"
)
_CUT_BEFORE = re.compile(
    r"[-+*/^_\\{…][ \t]*$|\.\.[ \t]*$|[,)\]}!%'\"|]$|[A-Za-z]\($"
    rf"|(?<![A-Za-z])(?:mod|{_OPERATIONS})[ \t]*$"
)
_ITEM_MARK = re.compile(r"(?:^|\n)[ \t]*[-+*][ \t]*$")
_CUT_BEFORE_NAME = re.compile(r"(?:[\w)\]][)\]]|(?<![A-Za-z])\d+|(?<![A-Za-z])[B-HJ-Zb-z]) $")
_CALLED = re.compile(rf"\d *$|\w$|{_NAME} ?$")
_CUT_AFTER = re.compile(
    r"[ \t]*(?:[+*/^_\\{…]|\.\.)|[ \t]*-(?! [A-Za-z]{3})|[(\[|]|,\w|\.\d"
    rf"|[ \t]*(?:- )?(?:{_OPERATIONS})(?![A-Za-z])| (?!(?:[aA]|I) [A-Za-z]{{2}}|mod(?![A-Za-z]))(?:\d|{_NAME}|\\)"
)
_NAME_ALONE = re.compile(rf"^{_NAME}$")
_MODULO = re.compile(r"[ \t]*+(?:\([ \t]*+)?mod(?![A-Za-z])")
_LOOK_BACK = 24


@dataclass(frozen=True, slots=True)
class Equation:
    """A statement ``lhs = rhs`` in normalised form; ``start`` and ``end`` index the flattened text.

    ``congruence``: the sides are equal modulo a number, so they may have different values in a correct statement.
    """

    lhs: str
    rhs: str
    start: int = 0
    end: int = 0
    congruence: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.lhs, self.rhs


def flatten(text: str) -> str:
    """Convert LaTeX to plain text: ``\\( \\frac{1}{5} \\times 10 = 2 \\)`` becomes ``((1)/(5)) * 10 = 2`` and spaces."""
    for pattern, replacement in _SYMBOLS:
        text = pattern.sub(replacement, text)
    for _ in range(_MAX_NESTING):
        before = text
        for pattern, replacement in _GROUPS:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    return re.sub(r"\\([a-zA-Z]+)", r"\1", text)


def normalise(expression: str) -> str:
    """Return the comparable form of a flattened expression, without spaces, redundant brackets and multiplication signs.

    Each of ``_MAX_NESTING`` passes removes redundant brackets inside and outside; deeper ones stay.
    """
    text = re.sub(r"\s+", "", expression).rstrip(".,;:")
    for _ in range(_MAX_NESTING):
        before = text
        text = re.sub(r"(?<![\w)])\((-?(?:\d+(?:\.\d+)?[%°]?|[A-Za-zα-ωΔΩ]))\)(?![\w(^])", r"\1", text)
        text = re.sub(r"\(\(([^()]*)\)\)", r"(\1)", text)
        if text.startswith("(") and text.endswith(")") and _closes_at_end(text):
            text = text[1:-1]
        if text == before:
            break
    return re.sub(r"(?<=[\w)])\*(?=[A-Za-zα-ωΔΩ(])", "", text)


def find_expressions(flat: str, start: int = 0, end: int | None = None) -> Iterator[re.Match[str]]:
    """Yield the longest expressions of ``flat[start:end]``, including parts of unreadable ones. Linear in the text."""
    for match in _EXPRESSION.finditer(flat, start, len(flat) if end is None else end):
        # Skip "10cm", which a unit or word follows directly. The pattern itself must not look ahead: it would backtrack to
        # every position inside the match.
        if not flat[match.end() : match.end() + 1].isalpha():
            yield match


def extract_equations(flat: str) -> tuple[Equation, ...]:
    """Extract the equations of a flattened text in order; ``a = b = c`` gives ``a = b`` and ``b = c``. Linear in the text.

    >>> [e.key for e in extract_equations("So 2 * 3 = 6 = 1 + 5.")]
    [('2*3', '6'), ('6', '1+5')]
    """
    extracted: list[Equation] = []
    previous: re.Match[str] | None = None
    for match in find_expressions(flat):
        equals = previous and _EQUALS.fullmatch(flat, previous.end(), match.start())
        if previous is not None and equals and begins_whole(flat, previous) and ends_whole(flat, match.end()):
            lhs, rhs = normalise(previous[0]), normalise(match[0])
            if lhs and rhs:  # "0=()" has an empty right side
                congruence = equals[1] == "≡" or _MODULO.match(flat, match.end()) is not None
                extracted.append(Equation(lhs, rhs, previous.start(), match.end(), congruence))
        previous = match
    return tuple(extracted)


def begins_whole(flat: str, match: re.Match[str]) -> bool:
    """Return whether an expression begins where it is matched: False for the 10 in ``... + 10`` and the 7 in ``2,3,6,7``."""
    before = flat[max(0, match.start() - _LOOK_BACK) : match.start()]
    if match[0][0] == "(" and _CALLED.search(before):
        return False
    if _NAME_ALONE.match(match[0]) and _CUT_BEFORE_NAME.search(before):
        return False
    return _CUT_BEFORE.search(before) is None or _ITEM_MARK.search(before) is not None


def ends_whole(flat: str, end: int) -> bool:
    """Return whether an expression ends at ``end``: False after the 4 in ``4 \\sqrt{2}`` and ``4 + ...``."""
    return _CUT_AFTER.match(flat, end) is None


def atoms(expression: str) -> frozenset[str]:
    """Return the numbers and names in a normalised expression, except exponents."""
    return frozenset(m[0] for m in _ATOM.finditer(expression) if m["power"] is None)


def is_number(expression: str) -> bool:
    """Return whether an expression contains no names, so that its value needs no context."""
    return not re.search(r"[A-Za-zα-ωΔΩ]", expression.replace("sqrt", ""))


def literal_value(expression: str) -> Fraction | None:
    """Return the value of a plain number or fraction (``-3``, ``0.5``, ``1/2``, ``50%``); None for other expressions.

    >>> literal_value("50%"), literal_value("2*3")
    (Fraction(1, 2), None)
    """
    match = _LITERAL.fullmatch(expression)
    if match is None or (match["under"] and not int(match["under"])):
        return None
    return Fraction(match["over"]) / int(match["under"] or 1) / (100 if match["percent"] else 1)


def _closes_at_end(text: str) -> bool:
    """Return whether the bracket at the start is closed by the one at the end."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return position == len(text) - 1
    return False
