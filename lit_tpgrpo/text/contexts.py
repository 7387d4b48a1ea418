"""What the numbers of an equation are in: a modulus, a base, a clock, which its sentence names, or the unit behind it.

The same computation has another result in another one: ``7 * 8 = 56``, and ``working modulo 10, 7 * 8 = 6``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

_BASE_NUMBER = r"(?:\d{1,3}|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen)(?!\w)"
_NAMED = (
    r"(?<![A-Za-z'])(?:mod(?:ulo)?[ \t]++(?P<modulus>\w++)|(?:in|to|into|using) (?:binary|octal|hex(?:adecimal)?)(?![A-Za-z])"
    rf"|clock(?![A-Za-z])|(?:(?:in|to|into|using) base[ -]|base-)(?P<base>{_BASE_NUMBER}))"
)
_NAMED_OR_END = re.compile(rf"(?P<end>[.!?](?=\s)|\n)|{_NAMED}", re.IGNORECASE)
_NAMED_BEHIND = re.compile(
    rf"[ \t]*+\(?(?:in )?(?:mod(?:ulo)?[ \t]++(?P<modulus>\w++)|binary(?![A-Za-z])|base[ -](?P<base>{_BASE_NUMBER}))",
    re.IGNORECASE,
)
_STEMS = ("mod", "Mod", "inary", "ctal", "hex", "Hex", "clock", "base", "Base")
"""Signs of a name, which cost less to look for than the patterns: most texts have none."""
_UNIT = re.compile(
    r" (?:(?P<power>square|cubic) )?(?P<unit>seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?|mm|cm|km"
    r"|millimet(?:er|re)s?|centimet(?:er|re)s?|met(?:er|re)s?|kilomet(?:er|re)s?|inch(?:es)?|foot|feet|yards?|miles?"
    r"|kg|milligrams?|grams?|kilograms?|ounces?|pounds?|tons?|millilit(?:er|re)s?|lit(?:er|re)s?|pints?|quarts?|gallons?"
    r"|cents?|dollars?|percent|degrees?|radians?|mph)(?![A-Za-z])"
)
_SAME_UNIT = {
    "inche": "inch", "feet": "foot", "sec": "second", "min": "minute", "hr": "hour", "mm": "millimeter", "cm": "centimeter",
    "km": "kilometer", "kg": "kilogram",
}  # fmt: skip


def contexts_at(flat: str, starts: Sequence[int]) -> list[str]:
    """Return what a sentence names before each of these ascending places: ``mod 10``, ``base 5``, ``clock``; "" for nothing."""
    if not any(stem in flat for stem in _STEMS):
        return [""] * len(starts)
    marks = [(0, ""), *((m.end(), "" if m["end"] else _name(m)) for m in _NAMED_OR_END.finditer(flat))]
    return [marks[bisect_right(marks, start, key=lambda mark: mark[0]) - 1][1] for start in starts]


def context_behind(flat: str, end: int) -> str:
    """Return the modulus or base that is named directly behind an equation (``modulo 10``, ``(base 5)``); "" for none."""
    match = _NAMED_BEHIND.match(flat, end)
    return _name(match) if match else ""


def unit_behind(flat: str, end: int) -> str:
    """Return the unit directly behind an equation, in the singular: ``minute``, ``square foot``; "" for none."""
    match = _UNIT.match(flat, end)
    if match is None:
        return ""
    unit = match["unit"].removesuffix("s").replace("metre", "meter").replace("litre", "liter")
    return f"{match['power'] or ''} {_SAME_UNIT.get(unit, unit)}".strip()


def _name(match: re.Match[str]) -> str:
    if match["modulus"]:
        return f"mod {match['modulus']}"
    return f"base {match['base']}".lower() if match["base"] else match[0].split()[-1].strip("(").lower()
