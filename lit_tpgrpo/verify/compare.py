r"""Gold and answer, from text to verdict: normalise, read the shape, guard what is exact, ask math-verify the rest.

1. ``lit_tpgrpo.text.notation``: one spelling for one layout. Equal layout is CORRECT, readable to math-verify or not.
2. ``structure``: lists, tuples, intervals, sets, matrices, relations are compared part by part, so that order and
   multiplicity count where they should.
3. ``relations``: equations and inequalities.
4. Parts without a shape (``compare_scalars``): choices, words, clock times, numbers in a base, units, plain numbers.
   These are decided here, exactly.
5. What remains is mathematics: math-verify's (``algebra``), behind ``equal``.

A wrong answer accepted is worse than a right one refused: where two readings were possible, the one that accepts less was
chosen. Nothing is evaluated before stage 5, so that the process that trains can run stages 1 to 4 itself.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Sequence as Items
from functools import lru_cache

from lit_tpgrpo.text.notation import Unreadable, canonical, layout_key
from lit_tpgrpo.text.numerals import read_based, read_numeral, same_number
from lit_tpgrpo.verify import atoms, relations
from lit_tpgrpo.verify.match import MAX_NESTING, MAX_OPEN_PARTS, Equal, Match, every
from lit_tpgrpo.verify.structure import (
    Collection,
    Matrix,
    Relation,
    Scalar,
    Sequence,
    Shape,
    Union,
    announced,
    read_shape,
    same_layout,
)
from lit_tpgrpo.verify.units import Quantity, split_unit, units_agree

_MISREAD = re.compile(
    r"[0-9.] [0-9]|\\frac\{[^{}]*\}\{[^{}]*\} ?[0-9]|\^\{[^{}]*\} ?[0-9]|\\ldots|[0-9.]\\(?:overline|bar|dot)"
)
"""What a parser would make something else of: numbers beside one another without a sign (no product), dots, periods."""


def compare(gold: str, answer: str, equal: Equal) -> Match:
    """Whether the answer is the gold's, see the module; ``equal`` is asked for what needs mathematics."""
    try:
        gold, answer = normalised(gold), normalised(answer)
        if not gold or not answer:
            return Match.UNREADABLE
        if same_layout(gold, answer):
            return Match.SAME
        if max(nesting(gold), nesting(answer)) > MAX_NESTING:
            return Match.UNREADABLE
        return compare_shapes(read_shape(gold), read_shape(answer), equal)
    except Unreadable:
        return Match.UNREADABLE


def nesting(text: str) -> int:
    """Return how many brackets are open at once at most."""
    depth = most = 0
    for sign in text:
        if sign in "([{":
            depth += 1
            most = max(most, depth)
        elif sign in ")]}" and depth:
            depth -= 1
    return most


@lru_cache(maxsize=512)
def normalised(text: str) -> str:
    """Stage 1: the canonical text without what only announces it."""
    return announced(canonical(text))


def compare_shapes(gold: Shape, answer: Shape, equal: Equal) -> Match:
    """Stages 2 and 3."""
    if same_layout(gold.text, answer.text):
        return Match.SAME
    if (named := atoms.read_set_name(gold.text)) and named == atoms.read_set_name(answer.text):
        return Match.SAME
    match gold, answer:
        case Scalar(), Scalar():
            return compare_scalars(gold.text, answer.text, equal)
        case (Relation(), _) | (_, Relation()):
            return relations.compare_relation(gold, answer, compare_shapes, equal)
        case Collection(), Collection():
            return _collections(gold, answer, equal)
        case Sequence(), Sequence():
            brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
            return _in_order(gold.parts, answer.parts, equal) if brackets else Match.DIFFERENT
        case (Sequence(), Collection(braces=False)) | (Collection(braces=False), Sequence()):
            return _tuple_without_brackets(gold, answer, equal)
        case Matrix(), Matrix():
            return _matrices(gold, answer, equal)
        case Matrix(), Sequence(opening="(" | "["):
            return _in_order(_entries(gold), answer.parts, equal)
        case Sequence(opening="(" | "["), Matrix():
            return _in_order(gold.parts, _entries(answer), equal)
        case (Union(), _) | (_, Union()):
            return relations.compare_sets(gold, answer, compare_shapes, equal)
        case (Collection(parts=(Scalar() as one,)), Scalar() as other) | (
            Scalar() as other,
            Collection(parts=(Scalar() as one,)),
        ):
            first, second = (one, other) if isinstance(gold, Collection) else (other, one)
            return compare_scalars(first.text, second.text, equal)
        case (Collection() as listed, Scalar() as row) | (Scalar() as row, Collection() as listed):
            return _letters(listed, row)
        case _:
            return relations.compare_sets(gold, answer, compare_shapes, equal)


def _in_order(gold: Items[Shape], answer: Items[Shape], equal: Equal) -> Match:
    if len(gold) != len(answer):
        return Match.DIFFERENT
    return every(compare_shapes(g, a, equal) for g, a in zip(gold, answer, strict=True))


def _collections(gold: Collection, answer: Collection, equal: Equal) -> Match:
    """Without order, each part as often as it stands there; words and named values (x=1, y=2) against bare ones keep
    theirs."""
    ours, theirs = gold.parts, answer.parts
    if len(ours) != len(theirs):
        return relations.compare_sets(gold, answer, compare_shapes, equal)
    if all(isinstance(part, Scalar) and (atoms.read_words(part.text) or "x")[1:] for part in ours):
        return _in_order(ours, theirs, equal)
    if relations.different_names(ours) != relations.different_names(theirs):
        return _in_order(ours, theirs, equal)
    open_parts, left = _without_twins(ours, theirs)
    if len(open_parts) > MAX_OPEN_PARTS:
        raise Unreadable(f"expected at most {MAX_OPEN_PARTS} answers that are not written like the gold's")
    unreadable = False
    for part in open_parts:
        for other in left:
            match = compare_shapes(part, other, equal)
            unreadable |= match is Match.UNREADABLE
            if match is Match.SAME:
                left.remove(other)
                break
        else:
            return Match.UNREADABLE if unreadable else relations.compare_sets(gold, answer, compare_shapes, equal)
    return Match.SAME


def _without_twins(ours: Items[Shape], theirs: Items[Shape]) -> tuple[list[Shape], list[Shape]]:
    """The parts that do not look like a part of the other side, which needs no mathematics; each twin goes once."""
    places: defaultdict[str, deque[int]] = defaultdict(deque)
    for place, other in enumerate(theirs):
        places[layout_key(other.text)].append(place)
    left = dict(enumerate(theirs))
    open_parts = []
    for part in ours:
        if twins := places.get(layout_key(part.text)):
            del left[twins.popleft()]
        else:
            open_parts.append(part)
    return open_parts, list(left.values())


def _tuple_without_brackets(gold: Sequence | Collection, answer: Sequence | Collection, equal: Equal) -> Match:
    """``1,2`` for ``(1,2)`` and the other way round, in order; [1,2) needs its brackets."""
    bracketed = gold if isinstance(gold, Sequence) else answer
    if not isinstance(bracketed, Sequence) or (bracketed.opening, bracketed.closing) != ("(", ")"):
        return relations.compare_sets(gold, answer, compare_shapes, equal)
    values = [relations.assigned(part) for part in gold.parts], [relations.assigned(part) for part in answer.parts]
    return _in_order(*values, equal)


def _matrices(gold: Matrix, answer: Matrix, equal: Equal) -> Match:
    if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
        return Match.DIFFERENT
    return _in_order([c for row in gold.rows for c in row], [c for row in answer.rows for c in row], equal)


def _entries(matrix: Matrix) -> tuple[Shape, ...]:
    """The entries of a row or column; nothing for a larger matrix."""
    if len(matrix.rows) == 1:
        return matrix.rows[0]
    return tuple(row[0] for row in matrix.rows) if all(len(row) == 1 for row in matrix.rows) else ()


def _letters(listed: Collection, row: Scalar) -> Match:
    """``A,B,C`` and ``ABC``."""
    letters = atoms.read_letters(row.text)
    choices = [atoms.read_choice(part.text) for part in listed.parts]
    if letters is None or not all(choice is not None and not choice.option for choice in choices):
        return Match.DIFFERENT
    return Match.SAME if sorted(choice.letter for choice in choices if choice) == sorted(letters) else Match.DIFFERENT


def compare_scalars(gold: str, answer: str, equal: Equal) -> Match:
    """Stage 4, then math-verify."""
    if same_layout(gold, answer):
        return Match.SAME
    for stage in (_choices, _words, _times, _bases):
        match = stage(gold, answer, equal)
        if match is not None:
            return match
    ours, theirs = split_unit(gold), split_unit(answer)
    if not units_agree(ours, theirs):
        return Match.DIFFERENT
    if "percent" in ours.unit ^ theirs.unit:
        return _percent(ours, theirs, equal)
    return compare_values(ours.value, theirs.value, equal)


def compare_values(gold: str, answer: str, equal: Equal) -> Match:
    """Two values without units: exactly where both are plain numbers, by math-verify elsewhere."""
    if same_layout(gold, answer):
        return Match.SAME
    ours, theirs = read_numeral(gold), read_numeral(answer)
    if ours is not None and theirs is not None:
        return Match.SAME if same_number(ours, theirs) else Match.DIFFERENT
    if _MISREAD.search(gold) or _MISREAD.search(answer):
        return Match.UNREADABLE
    if gold.count("'") != answer.count("'"):
        return Match.DIFFERENT  # math-verify drops the primes of derivatives
    return equal(gold.lstrip("+ "), answer.lstrip("+ "))


def _choices(gold: str, answer: str, equal: Equal) -> Match | None:
    ours, theirs = atoms.read_choice(gold), atoms.read_choice(answer)
    if ours is not None and theirs is not None:
        if ours.letter != theirs.letter:
            return Match.DIFFERENT
        return compare(ours.option, theirs.option, equal) if ours.option and theirs.option else Match.SAME
    if theirs is not None and theirs.option and ours is None:
        return compare(gold, theirs.option, equal)
    letters = atoms.read_letters(gold), atoms.read_letters(answer)
    return Match.DIFFERENT if None not in letters else None


def _words(gold: str, answer: str, equal: Equal) -> Match | None:
    ours, theirs = atoms.read_words(gold), atoms.read_words(answer)
    if ours is None and theirs is None:
        return None
    if ours is None or theirs is None:
        bare = answer if theirs is None else gold
        theirs_or_ours = bare.casefold() if bare.isalpha() else None
        return Match.SAME if theirs_or_ours is not None and theirs_or_ours in (ours, theirs) else Match.DIFFERENT
    return Match.SAME if ours == theirs else Match.DIFFERENT


def _times(gold: str, answer: str, equal: Equal) -> Match | None:
    if ":" not in gold and ":" not in answer:
        return None
    ours, theirs = atoms.read_clock(gold), atoms.read_clock(answer)
    if ours is not None and theirs is not None:
        return Match.SAME if atoms.clocks_agree(ours, theirs) else Match.DIFFERENT
    if ours is not None or theirs is not None:
        return Match.DIFFERENT  # 11:30 is not 11/30
    ratios = atoms.read_ratio(gold), atoms.read_ratio(answer)
    if None not in ratios:
        return Match.SAME if ratios[0] == ratios[1] else Match.DIFFERENT
    if (gold.count(":") == 1 and answer.count(":") == 0) or (gold.count(":") == 0 and answer.count(":") == 1):
        return equal(gold.replace(":", "/"), answer.replace(":", "/"))
    parts = gold.split(":"), answer.split(":")
    if len(parts[0]) != len(parts[1]):
        return Match.DIFFERENT
    return every(compare_values(g.strip(), a.strip(), equal) for g, a in zip(*parts, strict=True))


def _bases(gold: str, answer: str, equal: Equal) -> Match | None:
    ours, theirs = read_based(gold), read_based(answer)
    if ours is None and theirs is None:
        return None
    if ours is not None and theirs is not None:
        return Match.SAME if (ours.base, ours.value) == (theirs.base, theirs.value) else Match.DIFFERENT
    if ours is not None:  # the problem asks for digits in that base, and need not be told it
        digits = answer.replace(r"\text{", "").replace("}", "").replace(" ", "")
        return Match.SAME if digits == ours.digits else Match.DIFFERENT
    return Match.DIFFERENT


def _percent(gold: Quantity, answer: Quantity, equal: Equal) -> Match:
    """Per cent on one side only: of the same value, or the gold's number without its sign, or a whole number with it."""
    percent, other = (gold, answer) if "percent" in gold.unit else (answer, gold)
    ours, theirs = read_numeral(percent.value), read_numeral(other.value)
    if ours is None or theirs is None:
        return compare_values(gold.value, answer.value, equal)
    if ours.value == 100 * theirs.value:
        return Match.SAME
    whole = ours.value.denominator == 1 and ours.value > 1
    return Match.SAME if ours.value == theirs.value and (percent is gold or whole) else Match.DIFFERENT
