r"""Compare an answer with a gold in five stages, from exact text rules to math-verify.

1. ``lit_tpgrpo.text.notation`` normalises the notation. Texts with the same layout are equal, whether or not math-verify
   can read them.
2. ``structure`` reads lists, tuples, intervals, sets, matrices and relations, which are compared part by part, so that
   order and multiplicity count where they should.
3. ``relations`` compares equations, inequalities and sets of numbers.
4. ``compare_scalars`` compares unstructured parts exactly: choices, words, clock times, numbers in a base, units, plain
   numbers.
5. ``equal`` compares what remains by mathematics, with math-verify (``algebra``).

Accepting a wrong answer is worse than refusing a right one: where two readings were possible, the stricter one was chosen.
Nothing is evaluated before stage 5, so that the training process itself can run stages 1 to 4.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Sequence as Items
from functools import lru_cache

from lit_tpgrpo.text.notation import Unreadable, canonical, layout_key
from lit_tpgrpo.text.numerals import read_based, read_numeral, same_number
from lit_tpgrpo.verify import atoms, relations
from lit_tpgrpo.verify.match import MAX_NESTING, MAX_UNMATCHED_PARTS, Equal, Match, every
from lit_tpgrpo.verify.shapes import Collection, Matrix, Relation, Scalar, Sequence, Shape, Union
from lit_tpgrpo.verify.structure import read_shape, same_layout, without_introduction
from lit_tpgrpo.verify.units import Quantity, split_unit, units_agree

_MISREAD = re.compile(
    r"[0-9.] [0-9]|\\frac\{[^{}]*\}\{[^{}]*\} ?[0-9]|\^\{[^{}]*\} ?[0-9]|\\ldots|[0-9.]\\(?:overline|bar|dot)"
)
"""Notation that math-verify's parser misreads: adjacent numbers without an operator (not a product), dots, periods."""


def compare(gold: str, answer: str, equal: Equal) -> Match:
    """Compare an answer with a gold; see the module.

    Args:
        gold: the correct answer, normalised or not.
        answer: the extracted answer.
        equal: compares two expressions by mathematics (stage 5).
    """
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
    """Return the maximum depth of nested brackets."""
    depth = deepest = 0
    for sign in text:
        if sign in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in ")]}" and depth:
            depth -= 1
    return deepest


@lru_cache(maxsize=512)
def normalised(text: str) -> str:
    """Return the canonical text without an introduction such as "the answer is" (stage 1)."""
    return without_introduction(canonical(text))


def compare_shapes(gold: Shape, answer: Shape, equal: Equal) -> Match:
    """Compare two shapes part by part (stages 2 and 3)."""
    if same_layout(gold.text, answer.text):
        return Match.SAME
    if (name := atoms.read_set_name(gold.text)) and name == atoms.read_set_name(answer.text):
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
    """Compare two collections as multisets.

    They are compared in order if the gold's parts are words, or if only one side names its values (x=1, y=2).
    """
    expected, given = gold.parts, answer.parts
    if len(expected) != len(given):
        return relations.compare_sets(gold, answer, compare_shapes, equal)
    if all(isinstance(part, Scalar) and (atoms.read_words(part.text) or "x")[1:] for part in expected):
        return _in_order(expected, given, equal)
    if relations.different_names(expected) != relations.different_names(given):
        return _in_order(expected, given, equal)
    unmatched, remaining = _without_same_layout(expected, given)
    if len(unmatched) > MAX_UNMATCHED_PARTS:
        raise Unreadable(f"expected at most {MAX_UNMATCHED_PARTS} answers that are not written like the gold's")
    unreadable = False
    for part in unmatched:
        for other in remaining:
            match = compare_shapes(part, other, equal)
            unreadable |= match is Match.UNREADABLE
            if match is Match.SAME:
                remaining.remove(other)
                break
        else:
            return Match.UNREADABLE if unreadable else relations.compare_sets(gold, answer, compare_shapes, equal)
    return Match.SAME


def _without_same_layout(expected: Items[Shape], given: Items[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Remove pairs of parts with the same layout, which needs no mathematics; return the remaining parts of each side."""
    indices: defaultdict[str, deque[int]] = defaultdict(deque)
    for index, other in enumerate(given):
        indices[layout_key(other.text)].append(index)
    remaining = dict(enumerate(given))
    unmatched = []
    for part in expected:
        if same := indices.get(layout_key(part.text)):
            del remaining[same.popleft()]
        else:
            unmatched.append(part)
    return unmatched, list(remaining.values())


def _tuple_without_brackets(gold: Sequence | Collection, answer: Sequence | Collection, equal: Equal) -> Match:
    """Compare ``1,2`` with ``(1,2)`` in order, either way round; [1,2) is accepted only with its brackets."""
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
    """Return the entries of a matrix with one row or column; an empty tuple for a larger one."""
    if len(matrix.rows) == 1:
        return matrix.rows[0]
    return tuple(row[0] for row in matrix.rows) if all(len(row) == 1 for row in matrix.rows) else ()


def _letters(listed: Collection, row: Scalar) -> Match:
    """Compare choice letters with and without separators: ``A,B,C`` and ``ABC``, in any order."""
    letters = atoms.read_letters(row.text)
    choices = [atoms.read_choice(part.text) for part in listed.parts]
    if letters is None or not all(choice is not None and not choice.option for choice in choices):
        return Match.DIFFERENT
    return Match.SAME if sorted(choice.letter for choice in choices if choice) == sorted(letters) else Match.DIFFERENT


def compare_scalars(gold: str, answer: str, equal: Equal) -> Match:
    """Compare two unstructured parts by exact rules (stage 4), then by math-verify (stage 5)."""
    if same_layout(gold, answer):
        return Match.SAME
    for stage in (_choices, _words, _times, _bases):
        match = stage(gold, answer, equal)
        if match is not None:
            return match
    expected, given = split_unit(gold), split_unit(answer)
    if not units_agree(expected, given):
        return Match.DIFFERENT
    if "percent" in expected.unit ^ given.unit:
        return _percent(expected, given, equal)
    return compare_values(expected.value, given.value, equal)


def compare_values(gold: str, answer: str, equal: Equal) -> Match:
    """Compare two values without units: exactly if both are plain numbers, otherwise by math-verify."""
    if same_layout(gold, answer):
        return Match.SAME
    expected, given = read_numeral(gold), read_numeral(answer)
    if expected is not None and given is not None:
        return Match.SAME if same_number(expected, given) else Match.DIFFERENT
    if _MISREAD.search(gold) or _MISREAD.search(answer):
        return Match.UNREADABLE
    if gold.count("'") != answer.count("'"):
        return Match.DIFFERENT  # math-verify drops the primes of derivatives
    return equal(gold.lstrip("+ "), answer.lstrip("+ "))


def _choices(gold: str, answer: str, equal: Equal) -> Match | None:
    expected, given = atoms.read_choice(gold), atoms.read_choice(answer)
    if expected is not None and given is not None:
        if expected.letter != given.letter:
            return Match.DIFFERENT
        return compare(expected.option, given.option, equal) if expected.option and given.option else Match.SAME
    if given is not None and given.option and expected is None:
        return compare(gold, given.option, equal)
    letters = atoms.read_letters(gold), atoms.read_letters(answer)
    return Match.DIFFERENT if None not in letters else None


def _words(gold: str, answer: str, equal: Equal) -> Match | None:
    expected, given = atoms.read_words(gold), atoms.read_words(answer)
    if expected is None and given is None:
        return None
    if expected is None or given is None:
        bare = answer if given is None else gold
        word = bare.casefold() if bare.isalpha() else None
        return Match.SAME if word is not None and word in (expected, given) else Match.DIFFERENT
    return Match.SAME if expected == given else Match.DIFFERENT


def _times(gold: str, answer: str, equal: Equal) -> Match | None:
    if ":" not in gold and ":" not in answer:
        return None
    expected, given = atoms.read_clock(gold), atoms.read_clock(answer)
    if expected is not None and given is not None:
        return Match.SAME if atoms.clocks_agree(expected, given) else Match.DIFFERENT
    if expected is not None or given is not None:
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
    expected, given = read_based(gold), read_based(answer)
    if expected is None and given is None:
        return None
    if expected is not None and given is not None:
        return Match.SAME if (expected.base, expected.value) == (given.base, given.value) else Match.DIFFERENT
    if expected is not None:  # the problem asks for digits in that base, so the answer may leave the base out
        digits = answer.replace(r"\text{", "").replace("}", "").replace(" ", "")
        return Match.SAME if digits == expected.digits else Match.DIFFERENT
    return Match.DIFFERENT


def _percent(gold: Quantity, answer: Quantity, equal: Equal) -> Match:
    """Compare values of which only one has a per cent sign.

    Equal are the same value (0.5 and 50%), the gold's number without its sign (50 for 50%), and an integer above 1 with an
    additional sign (50% for 50).
    """
    percent, other = (gold, answer) if "percent" in gold.unit else (answer, gold)
    percentage, number = read_numeral(percent.value), read_numeral(other.value)
    if percentage is None or number is None:
        return compare_values(gold.value, answer.value, equal)
    if percentage.value == 100 * number.value:
        return Match.SAME
    whole = percentage.value.denominator == 1 and percentage.value > 1
    return Match.SAME if percentage.value == number.value and (percent is gold or whole) else Match.DIFFERENT
