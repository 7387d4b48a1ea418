r"""Wrong answers made of right ones: one digit, sign, base, unit or order changed, so that the value is another.

They measure what the verifier lets through. Nothing here uses the verifier's own reading. A change that might leave the
value as it was (the sign of a zero, a power of one, the order of a list) is not made.
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
"""Powers of one and minus one, zeros as factors, both signs, absolute values: a changed digit or sign may not matter."""
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
    """Another digit in the place of one; the first of a number does not become 0."""
    places = [m.start() for m in _DIGIT.finditer(gold)]
    if not places or _NEUTRAL.search(gold):
        return None
    place = draw.choice(places)
    digit = draw.choice([d for d in "123456789" if d != gold[place]])
    return gold[:place] + digit + gold[place + 1 :]


def change_sign(gold: str, draw: random.Random) -> str | None:
    """The other sign before one number that is not zero."""
    places = [m.start() for m in _NUMBER.finditer(gold)]
    if not places or _NEUTRAL.search(gold) or _EVEN.search(gold):
        return None
    place = draw.choice(places)
    before = gold[:place].rstrip()
    if before.endswith("-"):
        earlier = before[:-1].rstrip()
        plus = "+" if earlier and (earlier[-1].isalnum() or earlier[-1] in ")}") else ""
        return f"{earlier}{plus}{gold[place:]}"
    if before.endswith("+"):
        return f"{before[:-1]}-{gold[place:]}"
    return f"{before}-{gold[place:]}" if not before or before[-1] in "([,=&" or before.endswith(r"\frac{") else None


def change_base(gold: str, draw: random.Random) -> str | None:
    """The same digits in another base."""
    match = _BASED.search(gold)
    if match is None or gold[0] not in "-0123456789\\" or not 2 <= int(match[1]) <= 20:
        return None
    return f"{gold[: match.start()]}_{{{int(match[1]) + draw.choice((1, 2, 3))}}}"


def change_unit(gold: str, draw: random.Random) -> str | None:
    """The same number of something else."""
    if r"\$" in gold:
        return gold.replace(r"\$", draw.choice("€£¥"))
    if gold.endswith((r"^\circ", r"^{\circ}")) and gold.count("circ") == 1:
        return gold.replace(r"^{\circ}", r"^\circ").replace(
            r"^\circ", draw.choice((r"\text{ radians}", r"\%", r"\text{ cm}"))
        )
    match = _UNIT.search(gold)
    return None if match is None else gold[: match.start()] + _OTHER_UNIT[match[1]] + gold[match.end() :]


def change_order(gold: str, draw: random.Random) -> str | None:
    """Two different entries of a tuple, an interval, a matrix or two named values in each other's place."""
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
    if r"\text" in inner or r"\phantom" in inner or "{," in inner:  # what is invisible may be all that differs
        return None
    parts = re.split(f"({separators})", inner)
    entries = range(0, len(parts), 2)
    pairs = [(i, j) for i in entries for j in entries if i < j and _bare(parts[i]) != _bare(parts[j])]
    if not pairs or any(part.count("{") != part.count("}") for part in parts):
        return None
    i, j = draw.choice(pairs)
    parts[i], parts[j] = f" {parts[j].strip()} ", f" {parts[i].strip()} "
    return "".join(parts)


def _bare(text: str) -> str:
    return text.replace(" ", "")


MUTATIONS: Mapping[str, Callable[[str, random.Random], str | None]] = {
    "digit": change_digit,
    "sign": change_sign,
    "base": change_base,
    "unit": change_unit,
    "order": change_order,
}


def sampled_golds(golds: list[str], count: int, seed: int = 0) -> list[str]:
    """``count`` golds, first those that allow a change of base, unit or order, which are few, then any others."""
    draw = random.Random(seed)
    shuffled = draw.sample(golds, len(golds))
    rare = [change_base, change_unit, change_order]
    return sorted(shuffled, key=lambda gold: not any(change(gold, draw) for change in rare))[:count]


def wrong_answers(golds: list[str], seed: int = 0) -> list[tuple[str, str, str]]:
    """``(kind, gold, wrong answer)`` for each gold and each kind of change that it allows."""
    draw = random.Random(seed)
    changed = [(kind, gold, change(gold, draw)) for gold in golds for kind, change in MUTATIONS.items()]
    return [(kind, gold, wrong) for kind, gold, wrong in changed if wrong is not None and _bare(wrong) != _bare(gold)]
