"""Equations in running text, plain or LaTeX, in a form in which equal statements compare equal (paper, Stage I).

This reads, it does not calculate: ``8 * 2 = 4`` is an equation like any other. Expressions are compared as normalised
strings, so ``\\frac{1}{5}`` equals ``1/5`` and ``4 \\cdot r`` equals ``4r``, but ``2 + 3`` does not equal ``3 + 2``: a
solver who refers to a statement repeats it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_GREEK_NAMES = "alpha beta gamma delta epsilon theta lambda mu pi rho sigma phi omega Delta Omega"
_GREEK = dict(zip(_GREEK_NAMES.split(), "αβγδεθλμπρσφωΔΩ", strict=True))
# In this order: escaped symbols before the signs they are made of.
_SYMBOLS = (
    (re.compile(r"\\[$%]"), lambda m: "%" if m[0] == r"\%" else ""),
    (re.compile(r"[‘’]"), "'"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"\{,\}|(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])"), ""),
    (re.compile(r"\\\\(?:\[[^\]\n]{0,20}\])?"), "\n"),
    (re.compile(r"\\(?:[()\[\],;:! ]|q?quad\b)|[$&~]"), " "),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·∙]|\*\*?"), lambda m: "^" if m[0] == "**" else "*"),
    (re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    (re.compile(r"\\(?:equiv|approx)(?![a-zA-Z])|[≡≈]"), "="),
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
# Quantifiers are possessive: without that, a run of digits can be cut in exponentially many ways.
_NAME = rf"(?<![A-Za-z])(?!(?:{_WORDS})(?![A-Za-z]))(?:[A-Za-z]{{1,2}}+|[α-ωΔΩ])(?![A-Za-z])(?:_\w++)?+'*+"
_NUMBER = r"\d++(?:\.\d++)?+%?+"
_INSIDE = r"(?:[-+*/^.,!'\s\d_]|(?<![A-Za-z])[A-Za-z]{1,3}(?![A-Za-z])|sqrt|[α-ωΔΩ])"
_PARENS = rf"\({_INSIDE}*+(?:\((?:{_INSIDE}*+(?:\({_INSIDE}*+\){_INSIDE}*+)*+)\){_INSIDE}*+)*+\)"
_CALL = rf"(?:sqrt|sin|cos|tan|log|ln|exp|gcd|lcm|max|min)\s?{_PARENS}"
_FACTOR = rf"(?>(?:{_CALL}|{_PARENS}|{_NUMBER}|{_NAME})!?+(?:\^-?(?:{_PARENS}|{_NUMBER}|{_NAME}))?+)"
_TERM = rf"[-+]?+{_FACTOR}++"
EXPRESSION = re.compile(rf"(?<![\w.^])(?>{_TERM}(?:\s*[-+*/^]\s*{_TERM})*+)(?![A-Za-z])")
_EQUALS = re.compile(r"\s*=\s*")
_ATOM = re.compile(rf"(?P<power>\^-?(?:{_NUMBER}|{_NAME}))|{_NUMBER}|{_NAME}")
_LITERAL = re.compile(r"(?P<over>-?\d{1,40}(?:\.\d{1,40})?)(?:/(?P<under>\d{1,40}))?(?P<percent>%)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Equation:
    """A statement ``lhs = rhs`` in normalised form; ``start`` and ``end`` index the flattened text."""

    lhs: str
    rhs: str
    start: int = 0
    end: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.lhs, self.rhs


def flatten(text: str) -> str:
    """LaTeX written as plain text: ``\\( \\frac{1}{5} \\times 10 = 2 \\)`` becomes ``((1)/(5)) * 10 = 2`` in blanks."""
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
    """The comparable form of a flattened expression: no blanks, no needless brackets or multiplication signs.

    Each pass takes needless brackets off the inside and the outside of a nest; what more passes would take off stays.
    """
    text = re.sub(r"\s+", "", expression).rstrip(".,;:")
    for _ in range(_MAX_NESTING):
        before = text
        text = re.sub(r"(?<![\w)])\((-?(?:\d+(?:\.\d+)?%?|[A-Za-zα-ωΔΩ]))\)(?![\w(^])", r"\1", text)
        text = re.sub(r"\(\(([^()]*)\)\)", r"(\1)", text)
        if text.startswith("(") and text.endswith(")") and _closes_at_end(text):
            text = text[1:-1]
        if text == before:
            break
    return re.sub(r"(?<=[\w)])\*(?=[A-Za-zα-ωΔΩ(])", "", text)


def extract_equations(flat: str) -> tuple[Equation, ...]:
    """The equations of a flattened text in order; ``a = b = c`` gives ``a = b`` and ``b = c``. Linear in the text."""
    found: list[Equation] = []
    previous: re.Match[str] | None = None
    for match in EXPRESSION.finditer(flat):
        if previous is not None and _EQUALS.fullmatch(flat, previous.end(), match.start()):
            lhs, rhs = normalise(previous[0]), normalise(match[0])
            if lhs and rhs:  # "0=()" has nothing on its right
                found.append(Equation(lhs, rhs, previous.start(), match.end()))
        previous = match
    return tuple(found)


def atoms(expression: str) -> frozenset[str]:
    """The numbers and names that a normalised expression is made of, exponents left out."""
    return frozenset(m[0] for m in _ATOM.finditer(expression) if m["power"] is None)


def is_number(expression: str) -> bool:
    """Whether no name stands in the expression: its value needs no context."""
    return not re.search(r"[A-Za-zα-ωΔΩ]", expression.replace("sqrt", ""))


def literal_value(expression: str) -> Fraction | None:
    """The value of a bare number or fraction (``-3``, ``0.5``, ``1/2``, ``50%``); None for what has to be worked out."""
    match = _LITERAL.fullmatch(expression)
    if match is None or (match["under"] and not int(match["under"])):
        return None
    return Fraction(match["over"]) / int(match["under"] or 1) / (100 if match["percent"] else 1)


def _closes_at_end(text: str) -> bool:
    """Whether the bracket at the start is closed by the one at the end."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return position == len(text) - 1
    return False
