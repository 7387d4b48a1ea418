"""The structure of an answer: the shapes into which ``structure`` parses a canonical text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scalar:
    """An unstructured part: a number, an expression, words."""

    text: str


@dataclass(frozen=True, slots=True)
class Collection:
    """Several answers without an order; ``joined`` is their separator (``,``, ``or``, ``and``), ``braces`` marks a set."""

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
    """A union of sets joined by ``\\cup``."""

    text: str
    parts: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix, as rows of entries."""

    text: str
    rows: tuple[tuple[Shape, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain of relations ``sides[0] operators[0] sides[1] ...``."""

    text: str
    sides: tuple[str, ...]
    operators: tuple[str, ...]


Shape = Scalar | Collection | Sequence | Union | Matrix | Relation
