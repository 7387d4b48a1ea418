r"""The shape of an answer: lists, tuples and intervals, sets, matrices, relations, and what has no shape.

Shapes decide what order and multiplicity mean, so they are read here and not left to a symbolic parser, which turns
``16,3,1,1`` into a set of three and ``x=1,y=2`` into two equations that any solution may answer. Everything is a
canonical text (``lit_tpgrpo.text.notation``); the reading is linear, with a limit on nesting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from lit_tpgrpo.text.notation import Unreadable, layout_key
from lit_tpgrpo.text.numerals import read_numeral

MAX_DEPTH = 20

_TOKEN = re.compile(r"\\(?:text|begin|end)\{[^{}]*\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPEN = frozenset(("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"))
_CLOSE = frozenset((")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"))
_RELATIONS = frozenset(("=", "<", ">", r"\leq", r"\geq", r"\neq", r"\approx", r"\equiv", r"\in", r"\notin", r"\cong"))
_JOINING_WORDS = frozenset(("and", "or", "&"))
_ROWS = re.compile(
    r"\\begin\{(?P<name>[pbvBV]?matrix|array)\}(?:\{[clr| ]*\})?(?P<body>.*)\\end\{(?P=name)\}", re.DOTALL
)
_LINES = re.compile(
    r"\\begin\{(?P<name>aligned|align\*?|cases|gathered|split)\}(?P<body>.*)\\end\{(?P=name)\}", re.DOTALL
)
_ANNOUNCED = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?(?:answer|solution|result)(?: is| are)?:? ?",
    re.IGNORECASE,
)
_LEADING_SIGN = re.compile(r"(?:=|:|\\approx|\\therefore|\\Rightarrow|\\rightarrow|\\quad) ?(?![A-Za-z]{2})")


@dataclass(frozen=True, slots=True)
class Scalar:
    """What has no shape: a number, an expression, words."""

    text: str


@dataclass(frozen=True, slots=True)
class Collection:
    """Several answers without an order; ``joined`` says by what (``,``, ``or``, ``and``), ``braces`` if it is a set."""

    text: str
    parts: tuple[Shape, ...]
    joined: str = ","
    braces: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """An ordered tuple, vector or interval between the brackets ``opening`` and ``closing``."""

    text: str
    parts: tuple[Shape, ...]
    opening: str = "("
    closing: str = ")"


@dataclass(frozen=True, slots=True)
class Union:
    """Sets joined by ``\\cup``."""

    text: str
    parts: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries."""

    text: str
    rows: tuple[tuple[Shape, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain ``sides[0] operators[0] sides[1] ...``."""

    text: str
    sides: tuple[str, ...]
    operators: tuple[str, ...]


Shape = Scalar | Collection | Sequence | Union | Matrix | Relation


def announced(text: str) -> str:
    r"""The text without what only announces it: ``= 5``, ``\approx 5``, ``\therefore 5``, ``\text{The answer is } 5``."""
    for _ in range(3):
        sign = _LEADING_SIGN.match(text)
        words, rest = _leading_words(text)
        if sign is not None and sign.end() < len(text):
            text = text[sign.end() :]
        elif words and rest and _ANNOUNCED.fullmatch(words + " "):
            text = rest
        elif (match := _ANNOUNCED.match(words or text)) and match.end() and "answer" in match[0].lower():
            text = (words or text)[match.end() :] + rest
        else:
            break
    return text


def _leading_words(text: str) -> tuple[str, str]:
    r"""The content of a ``\text{}`` at the start, and what follows it."""
    if not text.startswith(r"\text{"):
        return "", ""
    content, _, rest = text[6:].partition("}")
    return content, rest.lstrip()


@lru_cache(maxsize=512)
def read_shape(text: str, depth: int = 0) -> Shape:
    """The shape of a canonical text; Unreadable where it nests too deeply."""
    if depth > MAX_DEPTH:
        raise Unreadable("expected an answer with fewer nested brackets")
    text = text.strip()
    if lines := _LINES.fullmatch(text):
        rows = lines["body"].replace("&", "").replace(r"\\", r"\quad ").strip()
        return read_shape(rows, depth + 1) if rows else Scalar(text)
    if read_numeral(text) is not None:
        return Scalar(text)
    if (content := _only_words(text)) is not None and re.search(r",| and | or ", content):
        parts = [part.strip() for part in re.split(r",\s*+and\b|,\s*+or\b|,|\band\b|\bor\b", content)]
        return Collection(text, tuple(Scalar(f"\\text{{{part}}}") for part in parts if part))
    parts, joined = _split_list(text)
    if len(parts) > 1:
        return Collection(text, _flat(read_shape(part, depth + 1) for part in parts), joined)
    if parts and parts[0] != text:
        return read_shape(parts[0], depth + 1)
    if (both := _both_signs(text)) is not None:
        return Collection(text, tuple(read_shape(part, depth + 1) for part in both))
    sides, operators = _split(text, _RELATIONS)
    if operators and all(sides):
        return Relation(text, tuple(sides), tuple(operators))
    return _bracketed(text, depth)


def _flat(parts: Iterable[Shape]) -> tuple[Shape, ...]:
    r"""The parts, those of ``1 \pm 2`` among them as two."""
    flat: list[Shape] = []
    for part in parts:
        flat += part.parts if isinstance(part, Collection) and not part.braces else (part,)
    return tuple(flat)


def _bracketed(text: str, depth: int) -> Shape:
    sets, _ = _split(text, frozenset((r"\cup",)))
    if len(sets) > 1 and all(sets):
        return Union(text, tuple(read_shape(part, depth + 1) for part in sets))
    if (rows := _ROWS.fullmatch(text)) and rows["name"] not in ("vmatrix", "Vmatrix"):  # those are numbers
        return _matrix(text, rows["body"], depth)
    opening, inner, closing = _outer_brackets(text)
    if not inner:
        return Scalar(text)
    if opening == r"\{":
        if _split(inner, frozenset(("|", ":")))[1]:
            return Scalar(text)  # a set given by a condition
        parts = _split_commas(inner)
        return Collection(text, tuple(read_shape(part, depth + 1) for part in parts), braces=True)
    parts = _split_commas(inner) if opening in ("(", "[", r"\langle") else [inner]
    if len(parts) > 1 and all(parts):
        bracket = {r"\langle": "(", r"\rangle": ")"}
        shapes = tuple(read_shape(part, depth + 1) for part in parts)
        return Sequence(text, shapes, bracket.get(opening, opening), bracket.get(closing, closing))
    if (opening, closing) == ("(", ")") and not _is_label(inner):
        return read_shape(inner, depth + 1)
    return Scalar(text)


def _is_label(inner: str) -> bool:
    """``(C)`` is a choice and no bracketed C."""
    return len(inner) == 1 and inner.isalpha()


def _matrix(text: str, body: str, depth: int) -> Shape:
    rows = [row for row in _split(body, frozenset((r"\\",)))[0] if row.strip()]
    entries = [_split(row, frozenset(("&",)))[0] for row in rows]
    if not entries or not all(cell.strip() for row in entries for cell in row):
        return Scalar(text)
    return Matrix(text, tuple(tuple(read_shape(cell, depth + 1) for cell in row) for row in entries))


def _split(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """The parts of a text between separators outside of all brackets, and the separators."""
    parts, found, start, level, at = [], [], 0, 0, 0
    for match in _TOKEN.finditer(text):
        token, at = match[0], match.start()
        level += (token in _OPEN or token.startswith(r"\begin{")) - (token in _CLOSE or token.startswith(r"\end{"))
        if level == 0 and token in separators:
            parts.append(text[start:at].strip())
            found.append(token)
            start = match.end()
    return [*parts, text[start:].strip()], found


def _split_list(text: str) -> tuple[list[str], str]:
    r"""The answers that a text lists: at commas, semicolons, ``\quad``, "and", "or", outside of all brackets."""
    marked = re.sub(r"\\text\{ ?,? ?(and|or|&) ?,? ?\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])", _mark, text)
    parts, found = _split(marked.replace("\0", r"\&"), frozenset((",", ";", r"\quad", r"\&")))
    joined = "," if not found else "or" if " or " in f" {_joiners(text)} " else "and" if r"\&" in found else ","
    if set(found) <= {","} and len(parts) > 1:
        parts = _split_commas(text)
    if r"\quad" in found and any(_only_words(part) is not None for part in parts):
        return [text], ","  # a remark after a wide space
    return [part for part in parts if part], joined


def _mark(match: re.Match[str]) -> str:
    return "\0"


def _joiners(text: str) -> str:
    return " ".join(word for word in re.split(r"[^a-z]+", text) if word in _JOINING_WORDS)


def _split_commas(text: str) -> list[str]:
    """At commas; where some have a space after them, commas within a number like 10,000 separate thousands."""
    parts, _ = _split(text, frozenset((",", ";")))
    if ", " not in text:
        return parts
    loose = [part.strip() for part in _split(text.replace(", ", r"\;"), frozenset((r"\;", ";")))[0]]
    return loose if all(read_numeral(part) is not None or "," not in part for part in loose) else parts


def _only_words(text: str) -> str | None:
    r"""The content of a text that is one ``\text{}``."""
    match = _TOKEN.match(text)
    return text[6:-1] if match is not None and match.end() == len(text) and text.startswith(r"\text{") else None


def _outer_brackets(text: str) -> tuple[str, str, str]:
    """``(opening, inner, closing)`` where the first bracket closes at the very end, otherwise empty strings."""
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) < 3 or tokens[0][0] not in _OPEN or tokens[-1][0] not in _CLOSE:
        return "", "", ""
    level = 0
    for token in tokens[:-1]:
        level += (token[0] in _OPEN) - (token[0] in _CLOSE)
        if level == 0:
            return "", "", ""
    return tokens[0][0], text[tokens[0].end() : tokens[-1].start()].strip(), tokens[-1][0]


def _both_signs(text: str) -> tuple[str, str] | None:
    r"""The two answers that a single ``\pm`` stands for; several signs need not go together and stay as they are."""
    if r"\pm" not in text and text.count(r"\mp") == 1:
        text = text.replace(r"\mp", r"\pm")
    if text.count(r"\pm") != 1 or text.count(r"\mp") > 1 or re.search(r"\\(?:pm|mp)[A-Za-z]", text):
        return None  # \pmod
    before = text[: text.index(r"\pm")].rstrip()
    plus = "" if not before or before[-1] in "=([{,<>" else "+"
    return (
        text.replace(r"\pm", plus).replace(r"\mp", "-").strip(),
        text.replace(r"\pm", "-").replace(r"\mp", "+").strip(),
    )


def same_layout(gold: str, answer: str) -> bool:
    """Whether two canonical texts look the same."""
    return layout_key(gold) == layout_key(answer)
