r"""Read multiple-choice answers and golds: which letter a text names, which options a gold lists.

A gold is one of these texts:

- a letter from A to J, with brackets or not, with its option or not: ``C``, ``(C)``, ``C) 42 m``;
- an index, ``2``;
- JSON with all options: ``{"answer": "C", "options": ["40 m", "41 m", "42 m", "43 m"]}``, where the answer is a letter or the
  text of an option if it is a string, and an index if it is a number. Options may also be an object from letters to texts.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.text.notation import Unreadable, canonical, layout_key

LETTERS = "ABCDEFGHIJ"

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_INTRODUCTION = re.compile(
    r"(?:the )?(?:(?:correct|right|final|best) )?(?:answer|option|choice)(?: is)? ?:? ?(?=[(\[]?[A-J](?![A-Za-z]))",
    re.IGNORECASE,
)
_LETTER = re.compile(
    r"(?:[(\[] ?([A-J]) ?[)\]][.:]?|([A-J])(?:[:)]|\.(?![A-Za-z])|$)) ?(.*)", re.IGNORECASE | re.DOTALL
)
_ANOTHER = re.compile(
    r"(?<![A-Za-z\\])[A-J](?![A-Za-z'])|[(\[] ?[a-j] ?[)\]]"
    r"|(?:(?<![a-z])(?:or|and)|[/,;&|+]) ?(?:option |choice )?[(\[]?[a-j](?![a-z])"
)
"""What names a second choice: a capital letter alone, a letter in brackets, a letter after a joining word or sign."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The gold of a multiple-choice problem.

    Args:
        letter: of the right option.
        options: texts of the options by letter, as far as they are known.
    """

    letter: str
    options: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def read_gold(gold: str, first_index: int = 0) -> Choices:
    r"""Read a gold; see the module.

    Args:
        gold: the gold answer of a problem.
        first_index: the index that names A.

    Raises:
        InputError: it names no choice.

    >>> read_gold("(c) 42 m").letter, read_gold("2").letter, read_gold('{"answer": "7", "options": ["5", "7"]}').letter
    ('C', 'C', 'B')
    """
    if gold.lstrip().startswith("{"):
        try:
            content = json.loads(gold)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or "answer" not in content or "options" not in content:
            raise InputError(f'expected a gold such as {{"answer": "C", "options": [...]}}, got {gold[:80]!r}')
        return resolve(content["answer"], content["options"], first_index)
    if re.fullmatch(r"\s*[0-9]{1,2}\s*", gold):
        return Choices(_letter_of_index(int(gold), first_index, len(LETTERS)))
    match = _match(gold)
    if match is None:
        raise InputError(
            "expected the gold of a multiple-choice problem to be a letter from A to J, an index, or JSON with answer and "
            f"options, got {gold[:80]!r}; use MathVerifier for other answers, or columns.options for a column with options"
        )
    letter, text = match
    return Choices(letter, {letter: text} if text else {})


def resolve(answer: Any, options: Any, first_index: int = 0) -> Choices:
    """Return the gold of a row.

    Args:
        answer: a letter or an option's text as ``str``, or an index as ``int``.
        options: the options' texts in order, an object from letters to texts, or ARC's object of lists ``text`` and ``label``.
        first_index: the index that names A.

    Raises:
        InputError: the options cannot be read, or the answer is none of them.
    """
    labels, texts = _labels_and_texts(options)
    by_letter = dict(zip(LETTERS, texts, strict=False))
    if isinstance(answer, int) and not isinstance(answer, bool):
        return Choices(_letter_of_index(answer, first_index, len(texts)), by_letter)
    if not isinstance(answer, str):
        raise InputError(f"expected the answer as a letter, an option's text or an index, got {answer!r}")
    if answer.strip() in labels:
        return Choices(LETTERS[labels.index(answer.strip())], by_letter)
    named = _match(answer)
    letter = named[0] if named is not None else _option_named(answer, by_letter)
    if letter is None or letter not in by_letter:
        raise InputError(
            f"expected the answer to be one of the {len(texts)} options or its letter, got {answer[:80]!r}"
        )
    return Choices(letter, by_letter)


def read_letter(text: str, options: Mapping[str, str]) -> tuple[str, str] | None:
    r"""Return the one letter that a text names, and the text behind it; None if it names none, or more than one.

    The text behind a letter may repeat its option. It must not name another letter, nor be the text of another option.

    Args:
        text: an answer or a gold, with or without TeX.
        options: texts of the options by letter, as far as they are known.

    >>> read_letter(r"\text{(B)}", {}), read_letter("b) 7", {}), read_letter("A or B", {})
    (('B', ''), ('B', '7'), None)
    """
    match = _match(text)
    if match is None:
        return None
    letter, rest = match
    if not rest or (letter in options and _key(rest) == _key(options[letter])):
        return letter, rest
    if _ANOTHER.search(rest) or _option_named(rest, {k: v for k, v in options.items() if k != letter}) is not None:
        return None
    return letter, rest


def _match(text: str) -> tuple[str, str] | None:
    """Return the letter at the beginning of a text and what follows it, without a look at that."""
    bare = plain(text)
    if len(bare) <= 4:  # a letter in bold or italic type of Unicode
        bare = unicodedata.normalize("NFKC", bare)
    match = _LETTER.fullmatch(_INTRODUCTION.sub("", bare, count=1))
    return None if match is None else ((match[1] or match[2]).upper(), match[3].strip())


def read_answer(text: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the one choice that an answer names by its letter or by an option's text; None if there is none."""
    named = read_letter(text, options)
    return named[0] if named is not None else _option_named(text, options)


def plain(text: str) -> str:
    r"""Return a text without layout: one kind of space and letter, no fonts, no ``\text{...}``."""
    text = text.replace("**", "")
    try:
        text = canonical(text)
    except Unreadable:  # prose, with a brace or a backslash that is not TeX's
        text = " ".join(text.split())
    return _TEXT.sub(r"\1", text).strip()


def _key(text: str, exact: bool = False) -> str:
    bare = layout_key(plain(text)).rstrip(".")
    return bare if exact else bare.casefold()


def _option_named(text: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the only option with this text; None if none has it, or several have."""
    for exact in (True, False):  # v and V are two options, paris and Paris one
        letters = [letter for letter, option in options.items() if _key(option, exact) == _key(text, exact)]
        if letters:
            return letters[0] if len(letters) == 1 else None
    return None


def _letter_of_index(index: int, first_index: int, count: int) -> str:
    if not 0 <= index - first_index < min(count, len(LETTERS)):
        raise InputError(
            f"expected the index of one of {min(count, len(LETTERS))} choices, {first_index} for A, got {index}"
        )
    return LETTERS[index - first_index]


def _labels_and_texts(options: Any) -> tuple[list[str], list[str]]:
    labels: list[str]
    texts: list[Any]
    if isinstance(options, Mapping) and {"text", "label"} <= options.keys():
        labels, texts = list(options["label"]), list(options["text"])
    elif isinstance(options, Mapping):
        labels, texts = list(options), list(options.values())
    elif isinstance(options, Sequence) and not isinstance(options, str):
        labels, texts = list(LETTERS[: len(options)]), list(options)
    else:
        labels, texts = [], []
    texts = [str(t) if isinstance(t, int | float) and not isinstance(t, bool) else t for t in texts]
    if not 2 <= len(texts) <= len(LETTERS) or len(labels) != len(texts) or not all(isinstance(t, str) for t in texts):
        raise InputError(f"expected 2 to {len(LETTERS)} options as a list of texts, got {str(options)[:80]!r}")
    return labels, texts
