r"""Separate an answer's value from its unit: ``10 \text{ cm}^{2}``, ``5 dollars``, ``€5``, ``90^{\circ}``, ``9 (apples)``.

A unit that only one side gives is not compared, because problems ("the number of ...", "in cm") and data sets are
inconsistent about units. Units on both sides must agree. Words that change the value stay with it: ``5 million`` is not 5.
All arguments are canonical texts (``lit_tpgrpo.text.notation``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_SAME_UNIT = {
    name: names[0]
    for names in (
        ("cm", "centimeter", "centimetre"), ("mm", "millimeter", "millimetre"), ("m", "meter", "metre"),
        ("km", "kilometer", "kilometre"), ("in", "inch", "inche"), ("ft", "foot", "feet"), ("yd", "yard"), ("mi", "mile"),
        ("kg", "kilogram", "kilo"), ("g", "gram", "gm"), ("mg", "milligram"), ("lb", "pound"), ("oz", "ounce"),
        ("l", "liter", "litre"), ("ml", "milliliter", "millilitre"), ("gal", "gallon"), ("s", "second", "sec"),
        ("min", "minute"), ("h", "hour", "hr"), ("day",), ("week", "wk"), ("month",), ("year", "yr"), ("dollar", "usd", r"\$"),
        ("cent", "¢"), ("euro", "€", "eur"), ("gbp", "£"), ("yen", "¥"), ("yuan", "元", "rmb", "cny"), ("rupee", "rs", "₹"),
        ("degree", "deg", "°"), ("radian", "rad"), ("mph",), ("kmh", "kph", "kmph"), ("percent", "%", "pct", "percentage"),
        ("unit",), ("hz", "hertz"), ("n", "newton"), ("j", "joule"), ("w", "watt"), ("kw", "kilowatt"), ("v", "volt"),
        ("a", "amp", "ampere"), ("k", "kelvin"), ("pa", "pascal"), ("mol", "mole"), ("ohm",), ("acre",), ("kj",), ("nm",),
    )
    for name in names
}  # fmt: skip
_SPEEDS = {"m/s", "km/h", "km/s", "cm/s", "ft/s", "mi/h", "m/h"}
_ATTACHED = {"cm", "mm", "km", "kg", "mg", "ml", "ft", "lb", "oz", "mph", "hr", "min", "sec", "hz", "deg", "rad", "usd"}
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3", "cubed": "^3"}
_NO_UNIT = frozenset((
    "and", "or", "not", "no", "nor", "if", "when", "where", "for", "with", "mod", "times", "plus", "minus", "over",
    "half", "thousand", "million", "billion", "trillion", "hundred", "dozen", "factorial", "pi", "root", "sqrt",
    "sin", "cos", "tan", "log", "ln", "exp", "inf", "to", "between", "by", "is", "are", "equals", "than", "most",
    "least", "more", "less", "about", "approximately", "either", "both", "neither", "none", "all", "any", "except",
    "but", "wrong", "false", "true", "undefined", "infinity", "infinite", "even", "odd", "prime", "one", "two",
    "three", "four", "five", "six", "seven", "eight", "nine", "ten", "negative", "positive",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "twenty", "thirty", "forty", "fifty", "zero", "twice",
    "double", "triple", "tenth", "hundredth", "thousandth", "third", "quarter", "fourth", "fifth", "sixth", "seventh", "eighth",
    "ninth", "halve", "lakh", "crore", "mn", "bn", "tens", "score", "gross", "below", "inverse", "reciprocal",
))  # fmt: skip
"""Words that are not units: they change a value, describe it, or are a value."""
_PREFIX = re.compile(r"(?P<sign>-?) ?(?P<sign_of_unit>\\\$|[€£¥₹¢]|(?:USD|EUR|GBP|RMB|Rs)\b\.?) ?(?=[-0-9.\\])")
_WORD_BOX = re.compile(r" ?\\text\{([^{}]*)\}(?:\^\{([23])\})?$")
_MAX_UNITS = 8
"""Maximum number of units that are separated from one answer."""
_CJK_NO_UNIT = frozenset("十百千万亿兆半倍分之负零一二三四五六七八九两或和不非无")
_CJK = re.compile(r" ?([\u3400-\u9fff]{1,6})$")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value's canonical text and the normalised words of its unit, empty if there is none."""

    value: str
    unit: frozenset[str] = frozenset()


def split_unit(text: str) -> Quantity:
    """Split a canonical text into value and unit; what is not certainly a unit stays with the value."""
    unit: frozenset[str] = frozenset()
    for _ in range(_MAX_UNITS):  # $5 \text{ dollars}, 90^{\circ} \text{ C}
        prefix = _PREFIX.match(text)
        if prefix is not None:
            text = prefix["sign"] + text[prefix.end() :]
            unit |= {_SAME_UNIT[prefix["sign_of_unit"].lower().rstrip(".")]}
            continue
        if text.endswith(r"^{\circ}") and r"\circ" not in text[:-8]:
            return Quantity(text[:-8].rstrip(), unit | {"degree"})
        for mark in (r"\%", "%"):
            if text.endswith(mark) and len(text) > len(mark):
                return Quantity(text.removesuffix(mark).rstrip(), unit | {"percent"})
        inner = _without_words(text)
        if inner is None:
            break
        text, unit = inner.value, unit | inner.unit
    return Quantity(text, unit)


def _without_words(text: str) -> Quantity | None:
    """Split off the unit words at the end of a text; None if there are none, or a unit cannot follow what is before them."""
    quantities = (split(text) for split in (_boxed_words, _parenthesised, _plain_words, _cjk))
    return next((q for q in quantities if q is not None and q.value and _is_value(q.value)), None)


def units_agree(gold: Quantity, answer: Quantity) -> bool:
    """Return whether the units of two quantities agree, or one side has none.

    They agree if their measures are equal and the words of one include those of the other (``triangles`` and
    ``right triangles``).
    """
    if not gold.unit or not answer.unit or gold.unit == answer.unit:
        return True
    measures = [{word for word in unit if _is_measure(word)} for unit in (gold.unit, answer.unit)]
    return measures[0] == measures[1] and (gold.unit <= answer.unit or answer.unit <= gold.unit)


def _is_measure(word: str) -> bool:
    return word.rstrip("^23-/") in _SAME_UNIT.values() or "/" in word or "^" in word


def _is_value(text: str) -> bool:
    """Return whether a unit can follow a text: it ends in a number, a closing bracket, a factorial or the constant pi."""
    return text[-1].isdigit() or text[-1] in ")}]!" or text.endswith((r"\pi", "π"))


def _boxed_words(text: str) -> Quantity | None:
    match = _WORD_BOX.search(text, max(0, text.rfind(r"\text{") - 1))
    return None if match is None else _quantity(text[: match.start()], match[1], match[2])


def _parenthesised(text: str) -> Quantity | None:
    head, _, tail = text.rpartition("(")
    words = tail[:-1].removeprefix(r"\text{").removesuffix("}") if tail.endswith(")") else ""
    if not head.rstrip() or len(words) < 3 or not all(c.isalpha() or c == " " for c in words):
        return None
    return _quantity(head, words, None)


def _plain_words(text: str) -> Quantity | None:
    """Split off unit words without a text box: ``10 weeks``, ``15 km/h``, ``10 cm^{2}``, ``5cm``."""
    start = len(text)
    while start and (text[start - 1].isalpha() or text[start - 1] in " ./^{}23") and len(text) - start < 60:
        start -= 1
    while start < len(text) and not text[start].isalpha():
        start += 1
    head, tail = text[:start], text[start:]
    power = None
    for number in "23":
        if tail.endswith(f"^{{{number}}}"):
            tail, power = tail[:-4], number
    if not head or head[-1] == "\\" or "\\" in tail or any(c.isdigit() or c in "{}^" for c in tail):
        return None
    words = [word.strip(".") for part in tail.split() for word in ([part] if part in _SPEEDS else part.split("/"))]
    attached = not head[-1].isspace()
    if not words or not all(_is_word(word) and (not attached or word.lower() in _ATTACHED) for word in words):
        return None
    return _quantity(head, tail, power)


def _is_word(word: str) -> bool:
    """Return whether letters without a text box are a word and not a product of variables such as ``abc`` or ``m``."""
    if word in _SPEEDS or (len(word) > 1 and _singular(word.lower()) in _SAME_UNIT):
        return True
    in_a_row = all(ord(b) - ord(a) == 1 for a, b in pairwise(word))
    return len(word) >= 3 and word.islower() and any(c in "aeiou" for c in word) and not in_a_row


def _cjk(text: str) -> Quantity | None:
    match = _CJK.search(text, max(0, len(text) - 7))
    return None if match is None else _quantity(text[: match.start()], match[1], None)


def _quantity(head: str, words: str, power: str | None) -> Quantity | None:
    """Build a quantity with normalised unit words; None if the words are not a unit.

    Args:
        head: text of the value.
        words: text of the unit.
        power: "2" or "3" if the unit has an exponent.
    """
    unit: set[str] = set()
    raised = f"^{power}" if power else ""
    text = words.lower().replace("per ", "/").replace(" an ", " ").replace("° ", "°")
    if text.strip() in ("c", "f", "°c", "°f"):
        return Quantity(head.rstrip(), frozenset({text.strip().strip("°")}))
    for word in re.split(r"[ ]+", text.replace(" /", "/").replace("/ ", "/").strip()):
        bare = word.strip(".,")
        if not bare or bare in ("a", "of", "the", "in"):
            continue
        if bare in _POWERS:
            raised = _POWERS[bare]
            continue
        if (
            {bare, _singular(bare)} & _NO_UNIT
            or set(bare) & _CJK_NO_UNIT
            or not all(c.isalpha() or c in "/°%$'-" for c in bare)
        ):
            return None
        unit.add("/".join(_SAME_UNIT.get(_singular(part), _singular(part)) for part in bare.split("/")))
    if raised:
        unit = {f"{word}{raised}" if _is_measure(word) else word for word in unit}
    return Quantity(head.rstrip(), frozenset(unit)) if unit else None


def _singular(word: str) -> str:
    if word in _SAME_UNIT or len(word) <= 2:
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("es") and word[:-2] in _SAME_UNIT:
        return word[:-2]
    return word.removesuffix("s") if not word.endswith("ss") else word
