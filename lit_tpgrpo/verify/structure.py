r"""Parse an answer's structure: lists, tuples and intervals, sets, matrices, relations, and unstructured parts.

The structure decides whether order and multiplicity count. It is parsed here and not by a symbolic parser, which turns
``16,3,1,1`` into a set of three and ``x=1,y=2`` into two equations that any solution satisfies. All texts are canonical
(``lit_tpgrpo.text.notation``). Parsing takes linear time, and nesting is limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from lit_tpgrpo.text.notation import Unreadable, layout_key
from lit_tpgrpo.text.numerals import read_numeral
from lit_tpgrpo.verify.shapes import Collection, Matrix, Relation, Scalar, Sequence, Shape, Union

MAX_DEPTH = 20

_TOKEN = re.compile(r"\\(?:text|begin|end)\{[^{}]*\}|\\[A-Za-z]+|\\.|(?<![0-9!])!=|.", re.DOTALL)
"""``n!=3`` may be a factorial or ``\neq``; it counts as the latter, which gives no value, unless a number is before it."""
_OPEN = frozenset(("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"))
_CLOSE = frozenset((")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"))
_RELATIONS = frozenset((
    "=", "<", ">", r"\leq", r"\geq", r"\neq", "!=", r"\approx", r"\equiv", r"\in", r"\notin", r"\cong",
    r"\nless", r"\ngtr", r"\nleq", r"\ngeq", r"\napprox", r"\nequiv", r"\ncong",
))  # fmt: skip
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


def without_introduction(text: str) -> str:
    r"""Strip an introduction from an answer: ``= 5``, ``\approx 5``, ``\therefore 5``, ``\text{The answer is } 5``."""
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
    r"""Split off a ``\text{}`` at the start: return its content and the rest."""
    if not text.startswith(r"\text{"):
        return "", ""
    content, _, rest = text[6:].partition("}")
    return content, rest.lstrip()


@lru_cache(maxsize=512)
def read_shape(text: str, depth: int = 0) -> Shape:
    """Parse the structure of a canonical text.

    Raises:
        Unreadable: it is nested too deeply.
    """
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
    r"""Flatten nested collections: ``1 \pm 2`` in a list becomes two parts."""
    flat: list[Shape] = []
    for part in parts:
        flat += part.parts if isinstance(part, Collection) and not part.braces else (part,)
    return tuple(flat)


def _bracketed(text: str, depth: int) -> Shape:
    sets, _ = _split(text, frozenset((r"\cup",)))
    if len(sets) > 1 and all(sets):
        return Union(text, tuple(read_shape(part, depth + 1) for part in sets))
    if (rows := _ROWS.fullmatch(text)) and rows["name"] not in (
        "vmatrix",
        "Vmatrix",
    ):  # a determinant or norm is a number
        return _matrix(text, rows["body"], depth)
    opening, inner, closing = _outer_brackets(text)
    if not inner:
        return Scalar(text)
    if opening == r"\{":
        if _split(inner, frozenset(("|", ":")))[1]:
            return Scalar(text)  # set-builder notation
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
    """Return whether the content of brackets is a choice letter: ``(C)`` is a choice, not a C in brackets."""
    return len(inner) == 1 and inner.isalpha()


def _matrix(text: str, body: str, depth: int) -> Shape:
    rows = [row for row in _split(body, frozenset((r"\\",)))[0] if row.strip()]
    entries = [_split(row, frozenset(("&",)))[0] for row in rows]
    if not entries or not all(cell.strip() for row in entries for cell in row):
        return Scalar(text)
    return Matrix(text, tuple(tuple(read_shape(cell, depth + 1) for cell in row) for row in entries))


def _split(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """Split a text at separators outside of all brackets; return the parts and the separators."""
    parts, used, start, level = [], [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        level += (token in _OPEN or token.startswith(r"\begin{")) - (token in _CLOSE or token.startswith(r"\end{"))
        if level == 0 and token in separators:
            parts.append(text[start : match.start()].strip())
            used.append(r"\neq" if token == "!=" else token)
            start = match.end()
    return [*parts, text[start:].strip()], used


def _split_list(text: str) -> tuple[list[str], str]:
    r"""Split a list of answers at commas, semicolons, ``\quad``, "and" and "or" outside of all brackets.

    Returns:
        The answers, and the word or sign that joins them.
    """
    marked = re.sub(r"\\text\{ ?,? ?(and|or|&) ?,? ?\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])", _mark, text)
    parts, separators = _split(marked.replace("\0", r"\&"), frozenset((",", ";", r"\quad", r"\&")))
    joined = (
        "," if not separators else "or" if " or " in f" {_joiners(text)} " else "and" if r"\&" in separators else ","
    )
    if set(separators) <= {","} and len(parts) > 1:
        parts = _split_commas(text)
    if r"\quad" in separators and any(_only_words(part) is not None for part in parts):
        return [text], ","  # a remark after a wide space
    return [part for part in parts if part], joined


def _mark(match: re.Match[str]) -> str:
    return "\0"


def _joiners(text: str) -> str:
    return " ".join(word for word in re.split(r"[^a-z]+", text) if word in _JOINING_WORDS)


def _split_commas(text: str) -> list[str]:
    """Split at commas and semicolons; if some commas have a space after them, those in numbers like 10,000 do not split."""
    parts, _ = _split(text, frozenset((",", ";")))
    if ", " not in text:
        return parts
    loose = [part.strip() for part in _split(text.replace(", ", r"\;"), frozenset((r"\;", ";")))[0]]
    return loose if all(read_numeral(part) is not None or "," not in part for part in loose) else parts


def _only_words(text: str) -> str | None:
    r"""Return the content of a text that is a single ``\text{}``; None for any other text."""
    match = _TOKEN.match(text)
    return text[6:-1] if match is not None and match.end() == len(text) and text.startswith(r"\text{") else None


def _outer_brackets(text: str) -> tuple[str, str, str]:
    """Return ``(opening, inner, closing)`` if the first bracket closes at the very end, otherwise three empty strings."""
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
    r"""Return the two answers that a single ``\pm`` means; None for several, which need not have the same sign."""
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
    """Return whether two canonical texts look the same."""
    return layout_key(gold) == layout_key(answer)
