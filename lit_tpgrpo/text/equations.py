"""Extract equations from running text, plain or LaTeX, so that equal statements compare equal (paper, Stage I).

An equation is extracted as a whole or not at all: ``1 + 2 + ... + 10 = 55`` gives none, since ``10 = 55`` is not what it says.

Nothing is calculated: ``8 * 2 = 4`` is an equation like any other. Expressions are compared as normalised strings, so
``\\frac{1}{5}`` equals ``1/5`` and ``4 \\cdot r`` equals ``4r``, but ``2 + 3`` does not equal ``3 + 2``: a solver who
refers to a statement repeats it as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from string import ascii_letters

from lit_tpgrpo.text.contexts import context_behind, contexts_at, unit_behind

_WORDS = "is|so|we|an|as|at|be|by|do|go|he|if|in|it|me|my|no|of|oh|ok|on|or|to|up|us|am|hm|vs|th|st|nd|rd|cm|km|kg"
# Quantifiers are possessive: otherwise a run of digits could be split in exponentially many ways. Names and factors first look
# at their first character: most places have none of them, and see it sooner so.
_NAME = (
    rf"(?=[A-Za-zα-ωΔΩ])(?<![A-Za-z])(?!(?:{_WORDS})(?![A-Za-z]))(?:[A-Za-z]{{1,2}}+|[α-ωΔΩ])(?![A-Za-z])(?:_\w++)?+'*+"
)
_NUMBER = r"\d++(?:\.\d++)?+[%°]?+"
_INSIDE = r"(?:[-+*/^.,!'\s\d_]|(?<![A-Za-z])[A-Za-z]{1,3}(?![A-Za-z])|sqrt|[α-ωΔΩ])"
_PARENS = rf"\({_INSIDE}*+(?:\((?:{_INSIDE}*+(?:\({_INSIDE}*+\){_INSIDE}*+)*+)\){_INSIDE}*+)*+\)"
_CALL = rf"(?:sqrt|sin|cos|tan|log|ln|exp|gcd|lcm|max|min)\s?{_PARENS}"
_FACTOR = rf"(?>(?=[\w(])(?:{_NUMBER}|{_PARENS}|{_CALL}|{_NAME})!?+(?:\^-?(?:{_PARENS}|{_NUMBER}|{_NAME}))?+)"
_TERM = rf"[-+]?+{_FACTOR}++"
_EXPRESSION = re.compile(rf"(?<![\w.^])(?>{_TERM}(?:\s*[-+*/^]\s*{_TERM})*+)")
_SIGN_AND_RIGHT = re.compile(rf"[=≡]\s*+({_EXPRESSION.pattern})?+")
_ATOM = re.compile(rf"(?P<power>\^-?(?:{_NUMBER}|{_NAME}))|{_NUMBER}|{_NAME}")
_BRACKETED_ATOM = re.compile(r"\((?<![\w)]\()(-?(?:\d+(?:\.\d+)?[%°]?|[A-Za-zα-ωΔΩ]))\)(?![\w(^])")
_DOUBLE_BRACKETS = re.compile(r"\(\(([^()]*)\)\)")
_PRODUCT_SIGN = re.compile(r"\*(?<=[\w)]\*)(?=[A-Za-zα-ωΔΩ(])")
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
# The last words of operations, and the first or last signs of the rest of the two patterns around it.
_OPERATION_WORDS = frozenset(f"{_OPERATIONS}|mod|dots|ldots|cdots".replace("|", " ").split())
_SIGNS_BEFORE, _SIGNS_AFTER = frozenset("-+*/^_\\{….,)]}!%'\"|("), frozenset(" \t-+*/^_\\{….,([|")
_BLANK = (" ", " \n")
_ITEM_MARK = re.compile(r"(?:^|\n)[ \t]*[-+*][ \t]*$")
_CUT_BEFORE_NAME = re.compile(r"(?:[\w)\]][)\]]|(?<![A-Za-z])\d+|(?<![A-Za-z])[B-HJ-Zb-z]) $")
_CALLED = re.compile(rf"\d *$|\w$|{_NAME} ?$")
_CUT_AFTER = re.compile(
    r"[ \t]*(?:[+*/^_\\{…]|\.\.)|[ \t]*-(?! [A-Za-z]{3})|[(\[|]|,\w|\.\d"
    rf"|[ \t]*(?:- )?(?:{_OPERATIONS})(?![A-Za-z])| (?!(?:[aA]|I) [A-Za-z]{{2}}|mod(?![A-Za-z]))(?:\d|{_NAME}|\\)"
)
_NAME_ALONE = re.compile(_NAME)
Span = tuple[int, int]
_LAST_GAP = re.compile(r".* (?<![-+*/^\s] )(?![-+*/^\s(])", re.DOTALL)
"""Up to the last blank beyond which no expression goes on: ``.*`` takes the whole text and gives back until one is met."""
_MODULO = re.compile(r"[ \t]*+(?:\([ \t]*+)?mod(?![A-Za-z])")
_LOOK_BACK = 24
_MAX_NESTING = 8
_LAST_SIGNS = frozenset("_)!'%°")
"""Signs in which an expression may end, besides letters and digits."""


@dataclass(frozen=True, slots=True)
class Equation:
    """A statement ``lhs = rhs`` in normalised form; ``start`` and ``end`` index the flattened text.

    ``congruence``: the sides are equal modulo a number, so they may have different values in a correct statement.
    ``context``, ``unit``: what its numbers are in, as ``contexts`` reads it.
    """

    lhs: str
    rhs: str
    start: int = 0
    end: int = 0
    congruence: bool = False
    context: str = field(default="", compare=False)
    unit: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.lhs, self.rhs


def normalise(expression: str) -> str:
    """Return the comparable form of a flattened expression, without spaces, redundant brackets and multiplication signs.

    Each of ``_MAX_NESTING`` passes removes redundant brackets inside and outside; deeper ones stay.
    """
    if expression.isalnum():  # a number or name: half of all sides
        return expression
    text = "".join(expression.split()).rstrip(".,;:")
    for _ in range(_MAX_NESTING if "(" in text else 0):
        before = text
        text = _BRACKETED_ATOM.sub(r"\1", text)
        text = _DOUBLE_BRACKETS.sub(r"(\1)", text)
        if text.startswith("(") and text.endswith(")") and _closes_at_end(text):
            text = text[1:-1]
        if text == before:
            break
    return _PRODUCT_SIGN.sub("", text) if "*" in text else text


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
    if "=" not in flat and "≡" not in flat:
        return ()
    extracted: list[Equation] = []
    right: Span | None = None
    read = 0  # how far the text has been read: no expression contains a sign of equality
    for match in _SIGN_AND_RIGHT.finditer(flat):
        sign, first, earlier = match.start(), read, right
        right, read = match.span(1), match.end()
        if right[0] < 0 or flat[read : read + 1].isalpha():
            right = None
            continue
        left = _expression_before(flat, first, sign, earlier)
        if left is not None and begins_whole(flat, *left) and ends_whole(flat, read):
            lhs, rhs = normalise(flat[slice(*left)]), normalise(match[1])
            if lhs and rhs:  # "0=()" has an empty right side
                congruence = flat[sign] == "≡" or _MODULO.match(flat, read) is not None
                extracted.append(Equation(lhs, rhs, left[0], read, congruence))
    return tuple(_in_context(flat, extracted)) if extracted else ()


def _in_context(flat: str, equations: list[Equation]) -> Iterator[Equation]:
    for equation, named in zip(equations, contexts_at(flat, [e.start for e in equations]), strict=True):
        context, unit = context_behind(flat, equation.end) or named, unit_behind(flat, equation.end)
        yield replace(equation, context=context, unit=unit) if context or unit else equation


def _expression_before(flat: str, first: int, sign: int, earlier: Span | None) -> Span | None:
    """Return the last expression of ``flat[first:sign]`` if only blanks follow it; ``earlier``: the one that ends at ``first``.

    Outside brackets an expression has blanks beside its operators only. So it cannot extend over other ones, and the text up to
    the last of them need not be read, unless a bracket that opens before it closes behind it.
    """
    text = flat[first:sign].rstrip()
    if not text:
        return earlier
    if not (text[-1].isalnum() or text[-1] in _LAST_SIGNS):
        return None
    gap = _LAST_GAP.match(text)
    begin = gap.end() if gap else 0
    if begin and ")" in text and _closes_more(text[begin:]):
        begin = 0
    begin, end = first + begin, first + len(text)
    if _EXPRESSION.fullmatch(flat, begin, end):
        return begin, end
    last = [(0, 0), *(match.span() for match in _EXPRESSION.finditer(flat, begin, end))][-1]
    return last if last[1] == end else None


def _closes_more(text: str) -> bool:
    """Return whether a bracket is closed that the text does not open."""
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return True
    return False


def begins_whole(flat: str, start: int, end: int) -> bool:
    """Return whether an expression begins at ``start``: False for the 10 in ``... + 10`` and the 7 in ``2,3,6,7``."""
    if start == 0:
        return True
    before, first = flat[max(0, start - _LOOK_BACK) : start], flat[start]
    if first == "(" and _CALLED.search(before):
        return False
    # Most expressions follow a word or a colon: only an operation or one of these signs is worth the pattern.
    said = before.rstrip(" \t\n")
    word = said[len(said.rstrip(ascii_letters)) :]
    may_cut_name = len(word) <= 1 and first.isalpha() and before.endswith(_BLANK)
    if may_cut_name and _CUT_BEFORE_NAME.search(before) and _NAME_ALONE.fullmatch(flat, start, end):
        return False
    if word not in _OPERATION_WORDS if word else said[-1:] not in _SIGNS_BEFORE:
        return True
    return _CUT_BEFORE.search(before) is None or _ITEM_MARK.search(before) is not None


def ends_whole(flat: str, end: int) -> bool:
    """Return whether an expression ends at ``end``: False after the 4 in ``4 \\sqrt{2}`` and ``4 + ...``."""
    after = flat[end : end + 2]
    if not after or (after[0] in ".," and (len(after) == 1 or after[1].isspace())):
        return True
    if after[0] not in _SIGNS_AFTER and not after[0].isalpha():
        return True
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
