r"""Derive wrong answers from golds by changing one digit, sign, base, unit or order, so that the value differs.

They measure false positives of the verifier, so nothing here uses the verifier's parsing. Changes that might leave the value
unchanged (the sign of a zero, a power of one, the order of a list) are avoided.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

_DIGIT = re.compile(r"[0-9]")
_NUMBER = re.compile(r"(?<![0-9.,_^\\A-Za-z])(?<!_\{)(?<!\^\{)(?=0*+[1-9])[0-9]++(?![:!%_])")
_NEUTRAL = re.compile(
    r"1\)?\s*\^|\)\s*\^|\^\s*\{?-?0|\\pm|\\mp|\||(?<![0-9.])0\s*(?:[a-z\\/]|\})|\{\s*0|\\cdot\s*0|mod"
)
"""Powers of 1 and -1, factors of zero, plus-minus signs, absolute values: changing a digit or sign may not change the value."""
_EVEN = re.compile(r"\\(?:cos|sec)")
_BASED = re.compile(r"_\{?([0-9]+)\}?$")
_OTHER_UNIT = {
    "centimeters": "meters", "cm": "km", "inches": "feet", "inch": "foot", "feet": "yards", "miles": "kilometers", "mph": "kmh",
    "hours": "minutes", "hour": "minute", "minutes": "seconds", "min": "h", "seconds": "hours", "days": "weeks",
    "weeks": "days", "dollars": "cents", "cents": "dollars", "euros": "dollars", "degrees": "radians", "meters": "feet",
    "square": "cubic",
    "units": "cm", "km": "m", "grams": "pounds", "pounds": "grams", "years": "months", "months": "years", "cubic": "square",
    "p.m.": "a.m.", "a.m.": "p.m.",
}  # fmt: skip
_UNIT = re.compile(
    r"(?<![A-Za-z\\])(" + "|".join(map(re.escape, sorted(_OTHER_UNIT, key=len, reverse=True))) + r")(?![A-Za-z])"
)
_TUPLE = re.compile(r"([(\[])([^()\[\]]*,[^()\[\]]*)([)\]])")
_MATRIX = re.compile(r"(\\begin\{pmatrix\})(.*?)(\\end\{pmatrix\})", re.DOTALL)
_ASSIGNED = re.compile(r"^\s*([A-Za-z])\s*=\s*([^,=]+),\s*([A-Za-z])\s*=\s*([^,=]+)$")


def change_digit(gold: str, draw: random.Random) -> str | None:
    """Replace one digit by another one, never by 0; None if that is not possible."""
    positions = [m.start() for m in _DIGIT.finditer(gold)]
    if not positions or _NEUTRAL.search(gold):
        return None
    position = draw.choice(positions)
    digit = draw.choice([d for d in "123456789" if d != gold[position]])
    return gold[:position] + digit + gold[position + 1 :]


def change_sign(gold: str, draw: random.Random) -> str | None:
    """Change the sign of one number that is not zero; None if that is not possible."""
    positions = [m.start() for m in _NUMBER.finditer(gold)]
    if not positions or _NEUTRAL.search(gold) or _EVEN.search(gold):
        return None
    position = draw.choice(positions)
    before, number = gold[:position].rstrip(), gold[position:]
    if before.endswith("-"):
        earlier = before[:-1].rstrip()
        plus = "+" if earlier and (earlier[-1].isalnum() or earlier[-1] in ")}") else ""
        return f"{earlier}{plus}{number}"
    if before.endswith("+"):
        return f"{before[:-1]}-{number}"
    return f"{before}-{number}" if not before or before[-1] in "([,=&" or before.endswith(r"\frac{") else None


def change_base(gold: str, draw: random.Random) -> str | None:
    """Change the base of a number such as ``52_8``, keeping its digits; None if the gold names no base."""
    match = _BASED.search(gold)
    if match is None or gold[0] not in "-0123456789\\" or not 2 <= int(match[1]) <= 20:
        return None
    return f"{gold[: match.start()]}_{{{int(match[1]) + draw.choice((1, 2, 3))}}}"


def change_unit(gold: str, draw: random.Random) -> str | None:
    """Replace a unit by another one; None if the gold has no known unit."""
    if r"\$" in gold:
        return gold.replace(r"\$", draw.choice("€£¥"))
    if gold.endswith((r"^\circ", r"^{\circ}")) and gold.count("circ") == 1:
        return gold.replace(r"^{\circ}", r"^\circ").replace(
            r"^\circ", draw.choice((r"\text{ radians}", r"\%", r"\text{ cm}"))
        )
    match = _UNIT.search(gold)
    return None if match is None else gold[: match.start()] + _OTHER_UNIT[match[1]] + gold[match.end() :]


def change_order(gold: str, draw: random.Random) -> str | None:
    """Swap two different entries of a tuple, an interval or a matrix, or two named values; None if there are none."""
    if assigned := _ASSIGNED.match(gold):
        first, x, second, y = (part.strip() for part in assigned.groups())
        return f"{first}={y},{second}={x}" if x != y and first != second else None
    gold = gold.replace(r"\left", "").replace(r"\right", "")
    for pattern, separators in ((_MATRIX, r"&|\\\\"), (_TUPLE, ",")):
        matches = list(pattern.finditer(gold))
        if matches:
            match = draw.choice(matches)
            swapped = _swapped(match[2], separators, draw)
            return None if swapped is None else gold[: match.start(2)] + swapped + gold[match.end(2) :]
    return None


def _swapped(inner: str, separators: str, draw: random.Random) -> str | None:
    if r"\text" in inner or r"\phantom" in inner or "{," in inner:  # the entries may differ only in invisible parts
        return None
    parts = re.split(f"({separators})", inner)
    entries = range(0, len(parts), 2)
    pairs = [
        (i, j) for i in entries for j in entries if i < j and _without_spaces(parts[i]) != _without_spaces(parts[j])
    ]
    if not pairs or any(part.count("{") != part.count("}") for part in parts):
        return None
    i, j = draw.choice(pairs)
    parts[i], parts[j] = f" {parts[j].strip()} ", f" {parts[i].strip()} "
    return "".join(parts)


def _without_spaces(text: str) -> str:
    return text.replace(" ", "")


MUTATIONS: Mapping[str, Callable[[str, random.Random], str | None]] = {
    "digit": change_digit,
    "sign": change_sign,
    "base": change_base,
    "unit": change_unit,
    "order": change_order,
}


def sampled_golds(golds: list[str], count: int, seed: int = 0) -> list[str]:
    """Sample ``count`` golds, first those that allow a change of base, unit or order, which are rare, then any others."""
    draw = random.Random(seed)
    shuffled = draw.sample(golds, len(golds))
    rare = [change_base, change_unit, change_order]
    return sorted(shuffled, key=lambda gold: not any(change(gold, draw) for change in rare))[:count]


def wrong_answers(golds: list[str], seed: int = 0) -> list[tuple[str, str, str]]:
    """Return ``(kind, gold, wrong answer)`` for each gold and each kind of change that it allows."""
    draw = random.Random(seed)
    changed = [(kind, gold, change(gold, draw)) for gold in golds for kind, change in MUTATIONS.items()]
    return [
        (kind, gold, wrong)
        for kind, gold, wrong in changed
        if wrong is not None and _without_spaces(wrong) != _without_spaces(gold)
    ]
