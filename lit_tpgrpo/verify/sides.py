r"""Tell what one side of a relation is: the name of a quantity, a constant, an equation's side that must be solved."""

from __future__ import annotations

import re

from lit_tpgrpo.text.numerals import read_based

_NAME = re.compile(
    r"(?:m?\\(?:angle|triangle|measuredangle))?"
    r"(?:[A-Za-z]|[A-Z]{2,4}|\\(?!pi|frac|sqrt|log|ln|sin|cos|tan|binom|infty)[a-zA-Z]+|\\text\{[^{}]*\}|"
    r"\\(?:overline|vec|bar|hat)\{[^{}]*\}|\|[A-Z]{2}\||\[[A-Z]{3,6}\])"
    r"'*(?:_\{(?:[^{}]|\{[^{}]*\})*\})?'*"
)
FUNCTION = re.compile(r"(?P<name>[A-Za-z]|\\[a-z]+)'*(?:_\{[^{}]*\})?(?:\^\{-1\})?\((?P<argument>[^()+*/]*)\)")
_POINT = re.compile(r"\((?:[A-Za-z](?:_\{[0-9]+\})?,)+[A-Za-z](?:_\{[0-9]+\})?\)")
LETTER = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
_CONSTANTS = frozenset((
    r"\pi", r"\frac", r"\sqrt", r"\binom", r"\cdot", r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc", r"\log",
    r"\ln", r"\exp", r"\arcsin", r"\arccos", r"\arctan", r"\circ", r"\infty", r"\div", r"e",
))  # fmt: skip
_SAYS_NOT = r"\\text\{ ?(?:is |are |does )?not(?: equals?(?: to)?)? ?\}"
_NEGATION = re.compile(rf"\\not(?![A-Za-z])|^ ?(?:\\neg(?![A-Za-z])|{_SAYS_NOT})|{_SAYS_NOT} ?$", re.IGNORECASE)
_GREEK = (
    r"\\(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi|chi|psi"
    r"|omega)(?![A-Za-z])"
)
_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])"
_OPERAND = re.compile(
    rf"(?P<variable>(?:[A-Za-df-hj-z]|{_GREEK})(?:_\{{[^{{}}]*\}})?)(?!(?:\^\{{[^{{}}]*\}})? ?\()"  # not f(2), f^{-1}(2)
    rf"|{_TRIGONOMETRIC}|[ei]|[-+*/^!.0-9(){{}}\[\] ]"
    r"|\\(?:frac|sqrt|binom|cdot|div|pi|log|ln|exp|arcsin|arccos|arctan|sinh|cosh|tanh)(?![A-Za-z])(?:_\{[0-9]+\})?"
)
_OPERATION = re.compile(rf"(?:{_OPERAND.pattern.replace('?P<variable>', '?:')})++")
_OF_AN_ANGLE = re.compile(_TRIGONOMETRIC + r"(?:\\[a-z]++|[^a-z\\])*+")


def is_name(text: str) -> bool:
    r"""Return whether one side of an equation names a quantity: ``x``, ``m_{\max}``, ``f(3)``, ``\angle ABC``, ``(x,y)``."""
    bare = text.replace(" ", "")
    return not is_negated(text) and any(pattern.fullmatch(bare) for pattern in (_NAME, FUNCTION, _POINT))


def is_constant(text: str) -> bool:
    """Return whether a text is a number in any notation: it contains no letter that could be a variable."""
    return all(token in _CONSTANTS for token in LETTER.findall(text))


def is_negated(text: str) -> bool:
    r"""Return whether a side says "not": ``\neg x``, ``x \text{ is not}``, a ``\not`` that ``canonical`` leaves.

    False for ``P(\neg A)``, which names a probability.
    """
    return _NEGATION.search(text) is not None


def is_unsolved(text: str) -> bool:
    r"""Return whether the left side of an equation is an operation on one variable: ``2x``, ``-x``, ``x^{2}``, ``\log x``.

    False for a quantity that a problem may ask for: of several variables or calls (``a+b``, ``f(2)+1``), a reciprocal beside
    the variable (``x+\frac{1}{x}``), a function of an angle (``\sin A``, ``\cos \theta``), a number in a base (``1A_{16}``).
    """
    side = text.replace(r"^{\circ}", "")
    if not _OPERATION.fullmatch(side) or _OF_AN_ANGLE.fullmatch(side) or read_based(text) is not None:
        return False
    variables = [match["variable"] for match in _OPERAND.finditer(side) if match["variable"]]
    if len(set(variables)) != 1 or side.strip("+() ") == variables[0]:
        return False
    return len(variables) == 1 or not any(over in side for over in (r"\frac", "/", "^{-"))
