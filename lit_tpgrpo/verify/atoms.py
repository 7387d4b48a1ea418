r"""Answers without a shape that are no formula either: choices, words, clock times, ratios, names of sets.

Each reader takes a canonical text and gives None for what it does not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from lit_tpgrpo.text.numerals import read_numeral

_CHOICE = re.compile(r"\(([A-J])\)[.:]? ?(.*)|([A-J])(?:[.:)] ?(.+)|\)|\.)?", re.DOTALL)
_ANOTHER_CHOICE = re.compile(r"(?<![A-Za-z])[A-J](?![A-Za-z])")
_CLOCK = re.compile(
    r"([0-9]{1,2}):([0-5][0-9])(?::([0-5][0-9]))? ?([ap]\.? ?m\.?|noon|midnight|hours?|o'clock)?", re.IGNORECASE
)
_RATIO = re.compile(r"[^:]+(?::[^:]+)+")
_EMPTY = frozenset(
    ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set")
)
_REALS = frozenset(
    ("all real numbers", "all reals", "all real", "the real numbers", "real numbers", "the set of all real numbers")
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The letter of a multiple choice and, where it is written too, its option."""

    letter: str
    option: str = ""


def read_choice(text: str) -> Choice | None:
    r"""``C``, ``(C)``, ``A.``, ``B) 12``, ``\text{(C)} 5``; an option that names another letter is no option."""
    bare = _unboxed(text)
    match = _CHOICE.fullmatch(bare)
    if match is None:
        return None
    option = (match[2] or match[4] or "").strip()
    if _ANOTHER_CHOICE.search(option):
        return None
    return Choice(match[1] or match[3], option)


def read_letters(text: str) -> str | None:
    """Choice letters written in a row, ``ABC``."""
    bare = _unboxed(text)
    return (
        bare if 2 <= len(bare) <= 10 and all(c in "ABCDEFGHIJ" for c in bare) and len(set(bare)) == len(bare) else None
    )


def read_words(text: str) -> str | None:
    r"""The words of ``\text{...}``, or bare letters that are no product: other scripts, words of four letters and more,
    capitalised ones."""
    boxed = text.startswith(r"\text{")
    bare = _unboxed(text)
    if not bare or "\\" in bare or not all(c.isalpha() or c in " -'." for c in bare):
        return None
    letters = bare.replace(" ", "")
    is_word = (
        len(letters) >= 4
        or not letters.isascii()
        or (len(letters) > 2 and letters[0].isupper() and letters[1:].islower())
    )
    return " ".join(bare.casefold().rstrip(".").split()) if boxed or is_word else None


def read_set_name(text: str) -> str | None:
    r"""One spelling for the empty set and for the real numbers."""
    bare = text.replace(" ", "")
    if bare in (r"\emptyset", r"\{\}", r"\{\emptyset\}"):
        return r"\emptyset"
    if bare in (r"\mathbb{R}", r"(-\infty,\infty)", r"(-\infty,+\infty)"):
        return r"\mathbb{R}"
    words = " ".join(_unboxed(text).lower().split())
    return r"\emptyset" if words in _EMPTY else r"\mathbb{R}" if words in _REALS else None


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day: hours, minutes, seconds as written, and ``am``, ``pm`` or nothing."""

    time: tuple[int, int, int]
    half: str = ""


def read_clock(text: str) -> Clock | None:
    r"""``3:30``, ``3:30 \text{PM}``, ``12:00 \text{noon}``, ``05:00``."""
    match = _CLOCK.fullmatch(_unboxed(text).strip())
    if match is None or int(match[1]) > 24:
        return None
    word = (match[4] or "").lower().replace(".", "").replace(" ", "")
    half = {"noon": "pm", "midnight": "am"}.get(word, word if word in ("am", "pm") else "")
    return Clock((int(match[1]), int(match[2]), int(match[3] or 0)), half)


def clocks_agree(gold: Clock, answer: Clock) -> bool:
    """The same time; a half of the day that one side leaves out is not compared."""
    return gold.time == answer.time and (not gold.half or not answer.half or gold.half == answer.half)


def read_ratio(text: str) -> tuple[Fraction, ...] | None:
    """``2:3:4`` as numbers relative to the first that is not zero; two clock-like numbers are a ratio here, too."""
    if _RATIO.fullmatch(text) is None:
        return None
    parts = [read_numeral(part) for part in text.split(":")]
    values = [part.value for part in parts if part is not None]
    first = next((value for value in values if value), None)
    return tuple(value / first for value in values) if first is not None and len(values) == len(parts) else None


def _unboxed(text: str) -> str:
    return (
        text.replace(r"\text{", "").replace("}", "")
        if r"\text{" in text and "_" not in text and "^" not in text
        else text
    )
