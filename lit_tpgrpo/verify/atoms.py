r"""Read answers that are neither structured nor formulas: choices, words, clock times, ratios, names of sets.

Each reader takes a canonical text and returns None for any other kind of answer.
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
    """The letter of a multiple-choice answer and the text of its option, if given."""

    letter: str
    option: str = ""


def read_choice(text: str) -> Choice | None:
    r"""Read a choice: ``C``, ``(C)``, ``A.``, ``B) 12``, ``\text{(C)} 5``; None if the option names another letter."""
    bare = _unboxed(text)
    match = _CHOICE.fullmatch(bare)
    if match is None:
        return None
    option = (match[2] or match[4] or "").strip()
    if _ANOTHER_CHOICE.search(option):
        return None
    return Choice(match[1] or match[3], option)


def read_letters(text: str) -> str | None:
    """Read choice letters written without separators, such as ``ABC``."""
    bare = _unboxed(text)
    return (
        bare if 2 <= len(bare) <= 10 and all(c in "ABCDEFGHIJ" for c in bare) and len(set(bare)) == len(bare) else None
    )


def read_words(text: str) -> str | None:
    r"""Read words, in lower case: the content of ``\text{...}``, or bare letters that cannot be a product of variables.

    The latter are letters of other scripts, words of at least four letters, and capitalised words of three.
    """
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
    r"""Read a name of the empty set or of the real numbers; return ``\emptyset`` or ``\mathbb{R}``."""
    bare = text.replace(" ", "")
    if bare in (r"\emptyset", r"\{\}", r"\{\emptyset\}"):
        return r"\emptyset"
    if bare in (r"\mathbb{R}", r"(-\infty,\infty)", r"(-\infty,+\infty)"):
        return r"\mathbb{R}"
    words = " ".join(_unboxed(text).lower().split())
    return r"\emptyset" if words in _EMPTY else r"\mathbb{R}" if words in _REALS else None


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day: hours, minutes and seconds as written, and ``am``, ``pm`` or ""."""

    time: tuple[int, int, int]
    half: str = ""


def read_clock(text: str) -> Clock | None:
    r"""Read a time of day: ``3:30``, ``3:30 \text{PM}``, ``12:00 \text{noon}``, ``05:00``."""
    match = _CLOCK.fullmatch(_unboxed(text).strip())
    if match is None or int(match[1]) > 24:
        return None
    word = (match[4] or "").lower().replace(".", "").replace(" ", "")
    half = {"noon": "pm", "midnight": "am"}.get(word, word if word in ("am", "pm") else "")
    return Clock((int(match[1]), int(match[2]), int(match[3] or 0)), half)


def clocks_agree(gold: Clock, answer: Clock) -> bool:
    """Return whether two times are equal; am and pm are compared only if both sides give them."""
    return gold.time == answer.time and (not gold.half or not answer.half or gold.half == answer.half)


def read_ratio(text: str) -> tuple[Fraction, ...] | None:
    """Read a ratio such as ``2:3:4``, divided by its first nonzero term; ``3:30`` is read as a ratio too."""
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
