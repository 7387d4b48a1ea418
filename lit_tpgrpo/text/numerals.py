r"""Read plain numbers as exact values: integers, decimals, fractions, mixed numbers, powers of ten, digits in a base.

Nothing is computed: ``\sqrt{4}`` is not a numeral. All arguments are canonical texts (``notation.canonical``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 400
"""Maximum number of digits and maximum power of ten that are read, so that a number of a million digits costs no time."""
SIGNIFICANT_DIGITS = 6
"""Significant digits, and decimal places, that a decimal needs to equal a number without a finite decimal expansion."""

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"(?P<integer>{_UNSIGNED}(?![0-9]))?(?:\.(?P<places>[0-9]*))?(?:[eE](?P<power>[+-]?[0-9]+))?")
_TEN = re.compile(r"(?:(?P<factor>[0-9.,]+) ?\\cdot ?)?10\^\{(?P<power>[+-]? ?[0-9]+)\}")
_PERIODIC = re.compile(r"(?P<integer>[0-9]*)\.(?P<places>[0-9]*)\\overline\{(?P<period>[0-9]+)\}")
_FRACTION = re.compile(r"(?:(?P<whole>[0-9]+) ?)?\\frac\{(?P<top>[+-]?[0-9.,]+)\}\{(?P<bottom>[+-]?[0-9.,]+)\}")
_SLASH = re.compile(r"(?:(?P<whole>[0-9]+) )?(?P<top>[0-9.,]+) ?/ ?(?P<bottom>[0-9.,]+)")
_BASED = re.compile(r"(?P<sign>-?)(?:\\text\{)?(?P<digits>[0-9A-Z]+)\}?_\{(?:\\text\{)?(?P<base>[0-9]+|[a-z]+)\}?\}")
_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Numeral:
    """An exact value; ``places`` is the number of decimal places if it is written as a decimal, otherwise None."""

    value: Fraction
    places: int | None = None

    @property
    def approximates(self) -> bool:
        """Whether it has enough places to equal a number without a finite decimal expansion."""
        if self.places is None or self.places < SIGNIFICANT_DIGITS:
            return False
        return abs(self.value) * 10**self.places >= 10 ** (SIGNIFICANT_DIGITS - 1)


@dataclass(frozen=True, slots=True)
class BasedNumeral:
    """Digits in a base, as in ``52_{8}``."""

    value: int
    base: int
    digits: str


def read_numeral(text: str) -> Numeral | None:
    r"""Read a canonical text that is a plain number as an exact value; None for any other text.

    Commas and single spaces between groups of three digits separate thousands: ``1,450`` is one number. ``1e6`` and
    ``3.89\cdot 10^{-10}`` are powers of ten, ``1\frac{1}{2}`` and ``1 1/2`` mixed numbers.

    >>> read_numeral("1,450.50")
    Numeral(value=Fraction(2901, 2), places=2)
    """
    if len(text) > 2 * MAX_DIGITS:
        return None
    sign, body = 1, text.strip()
    while body[:1] in ("-", "+"):
        sign, body = -sign if body[0] == "-" else sign, body[1:].lstrip()
        if body[:1] in ("-", "+"):  # 5 - -3 is an expression, --3 is a typo
            return None
    if body.startswith("(") and body.endswith(")") and "(" not in body[1:]:
        return None
    unsigned = _decimal(body) or _ten(body) or _fraction(body) or _periodic(body)
    return None if unsigned is None else Numeral(sign * unsigned.value, unsigned.places)


def read_based(text: str) -> BasedNumeral | None:
    r"""Read digits in a base: ``52_{8}``, ``\text{A5}_{11}``, ``101_{\text{two}}``; None if a digit is not in the base.

    >>> read_based("52_{8}").value, read_based("58_{8}")
    (42, None)
    """
    match = _BASED.fullmatch(text.replace(" ", ""))
    if match is None or len(text) > MAX_DIGITS or not any(c.isdigit() for c in match["digits"]):
        return None
    base = _BASE_WORDS.get(match["base"]) if match["base"].isalpha() else int(match["base"][:4])
    if base is None or not 2 <= base <= 36:
        return None
    try:
        value = int(match["digits"], base)
    except ValueError:
        return None
    return BasedNumeral(-value if match["sign"] else value, base, match["sign"] + (match["digits"].lstrip("0") or "0"))


def same_number(gold: Numeral, answer: Numeral) -> bool:
    """Return whether two values are equal, or one is the other rounded or truncated to at least six places and six digits.

    Two decimals with the same number of places must be equal, so that no changed digit is accepted.
    """
    if gold.value == answer.value:
        return True
    if gold.places is not None and answer.places is not None:
        short, long = sorted((gold, answer), key=lambda numeral: numeral.places or 0)
    else:
        short, long = (answer, gold) if gold.places is None else (gold, answer)
        if _terminates(long.value.denominator):
            return False  # the value has a finite decimal expansion, so the decimal is not a rounding of it
    if short.places == long.places or not short.approximates:
        return False
    assert short.places is not None
    return abs(short.value - long.value) < Fraction(1, 10**short.places)


def _terminates(denominator: int) -> bool:
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


def _decimal(text: str) -> Numeral | None:
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match["integer"] or match["places"]):
        return None
    integer, places = match["integer"] or "", match["places"] or ""
    power = int(match["power"]) if match["power"] and len(match["power"]) <= 5 else 0 if not match["power"] else None
    if power is None or abs(power) > MAX_DIGITS:
        return None
    digits = integer.replace(",", "").replace(" ", "")
    value = Fraction(int(f"{digits}{places}")) * Fraction(10) ** (power - len(places))
    after_point = len(places) - power
    return Numeral(value, after_point if places and after_point > 0 else None)


def _ten(text: str) -> Numeral | None:
    match = _TEN.fullmatch(text)
    if match is None or len(match["power"]) > 5:
        return None
    power = int(match["power"].replace(" ", ""))
    factor = _decimal(match["factor"]) if match["factor"] else Numeral(Fraction(1))
    if factor is None or abs(power) > MAX_DIGITS:
        return None
    return Numeral(factor.value * Fraction(10) ** power)


def _periodic(text: str) -> Numeral | None:
    match = _PERIODIC.fullmatch(text)
    if match is None:
        return None
    integer, places, period = match["integer"], match["places"], match["period"]
    start = Fraction(int(f"{integer}{places}" or "0"), 10 ** len(places))
    return Numeral(start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(places)))


def _fraction(text: str) -> Numeral | None:
    match = _FRACTION.fullmatch(text) or _SLASH.fullmatch(text)
    if match is None:
        return None
    top, bottom = _signed(match["top"]), _signed(match["bottom"])
    if top is None or bottom is None or bottom == 0:
        return None
    if match["whole"] and not 0 < top < bottom:
        return None  # 2 3/2 is not a mixed number
    return Numeral(int(match["whole"] or 0) + top / bottom)


def _signed(text: str) -> Fraction | None:
    sign, body = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    number = _decimal(body)
    return None if number is None else sign * number.value
