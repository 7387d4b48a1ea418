r"""Compare equations, inequalities and sets of numbers.

A relation between numbers only (``f(3)=7``, ``2+3=5``, ``1<2``) has no solutions to compare, so its sides are compared.
The sides of a chain must be consistent: ``x=2=3`` and ``2=3`` claim two values and give neither. Relations that must be
solved are left to math-verify.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as Items

from lit_tpgrpo.text.notation import layout_key
from lit_tpgrpo.verify.match import MAX_UNMATCHED_PARTS, CompareShapes, Equal, Match, every
from lit_tpgrpo.verify.shapes import Collection, Relation, Scalar, Sequence, Shape, Union
from lit_tpgrpo.verify.sides import FUNCTION, LETTER, is_constant, is_name, is_negated, is_unsolved
from lit_tpgrpo.verify.structure import read_shape, same_layout

_TOKEN = re.compile(r"\\[A-Za-z]+|.", re.DOTALL)
_FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq", "=": "=", r"\neq": r"\neq"}
_ORDER = {"<": "open", r"\leq": "closed", ">": "open", r"\geq": "closed"}
_SET_SIGNS = re.compile(r"\\(?:cup|cap|setminus|mathbb|emptyset)(?![A-Za-z])")


def assigned(part: Shape) -> Shape:
    """Return the value of an assignment such as ``x=1``; any other shape unchanged."""
    if isinstance(part, Relation) and len(part.sides) == 2 and part.operators == ("=",) and is_name(part.sides[0]):
        return read_shape(part.sides[1])
    return part


def different_names(parts: Items[Shape]) -> bool:
    """Return whether all parts are assignments to different names, as in ``x=1, y=2``."""
    names = [layout_key(p.sides[0]) for p in parts if isinstance(p, Relation) and p.operators[:1] == ("=",)]
    return len(names) == len(parts) and len(set(names)) == len(names) and all(map(is_name, names))


def compare_relation(gold: Shape, answer: Shape, same: CompareShapes, equal: Equal) -> Match:
    """Compare a gold and an answer, at least one of which is a Relation."""
    if isinstance(answer, Relation) and (consistency := _consistency(answer, same, equal)) is not Match.SAME:
        return consistency
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _two_relations(gold, answer, same, equal)
    if isinstance(answer, Relation):
        interval = _interval(answer)
        if interval is not None:  # 2,3 are two numbers
            return Match.DIFFERENT if isinstance(gold, Collection) else same(gold, interval, equal)
        value = _value(answer, need_name=False)
        return Match.DIFFERENT if value is None else same(gold, value, equal)
    assert isinstance(gold, Relation)
    interval = _interval(gold)
    if interval is not None:
        return Match.DIFFERENT if isinstance(answer, Collection) else same(interval, answer, equal)
    value = _value(gold, need_name=True)
    return Match.DIFFERENT if value is None else same(value, answer, equal)


def _consistency(relation: Relation, same: CompareShapes, equal: Equal) -> Match:
    """Compare the numbers among an equation's sides, and all values of a chain: DIFFERENT if the equation is inconsistent."""
    if set(relation.operators) - {"=", r"\approx"}:
        return Match.SAME
    numbers = [
        read_shape(side)
        for side, operator in zip(relation.sides, (*relation.operators, "="), strict=True)
        if is_constant(side) and operator == "="
    ]
    if r"\approx" in relation.operators:
        numbers = numbers[:-1]  # an approximate value need not be equal
    checks = [same(number, numbers[-1], equal) for number in numbers[:-1]]
    if len(relation.sides) > 2 and set(relation.operators) == {"="}:
        last = read_shape(relation.sides[-1])
        checks += [same(read_shape(side), last, equal) for side in relation.sides[1:-1] if not is_constant(side)]
    return every(checks)


def _value(relation: Relation, need_name: bool) -> Shape | None:
    r"""Return the value that an equation or ``x \in S`` gives: its last side; None if it gives none.

    After ``\approx`` values are rounded, so the first value counts there. ``2x=7`` must be solved first, so it gives none;
    ``4s=4\cdot 5=20`` computes what is on its left.

    Args:
        relation: an equation, an approximation or a membership.
        need_name: return None unless the first side is a name or a number.
    """
    sides, operators = relation.sides, relation.operators
    if set(operators) - {"=", r"\approx", r"\in"} or any(map(is_negated, sides)):
        return None
    if (len(sides) == 2 or r"\approx" in operators) and r"\begin{" not in sides[-1] and is_unsolved(sides[0]):
        return None
    if not (is_name(sides[0]) or is_constant(sides[0])) and (need_name or r"\in" in operators):
        return None
    if r"\approx" in operators:
        first = operators.index(r"\approx")
        return read_shape(sides[first] if first or is_constant(sides[0]) else sides[1])
    if len(sides) == 2 and is_constant(sides[0]) and is_name(sides[1]):
        return read_shape(sides[0])  # 5 = x
    return read_shape(sides[-1])


def _two_relations(gold: Relation, answer: Relation, same: CompareShapes, equal: Equal) -> Match:
    if set(gold.operators) == set(answer.operators) and set(gold.operators) in ({"="}, {r"\in"}):
        return _two_equations(gold, answer, same, equal)
    flipped = tuple(_FLIPPED.get(operator, operator) for operator in reversed(answer.operators))
    sides = tuple(map(read_shape, gold.sides))
    matches = []
    if gold.operators == answer.operators:
        matches.append(every(same(g, read_shape(a), equal) for g, a in zip(sides, answer.sides, strict=True)))
    if gold.operators == flipped and Match.SAME not in matches:
        matches.append(every(same(g, read_shape(a), equal) for g, a in zip(sides, answer.sides[::-1], strict=True)))
    if Match.SAME in matches:
        return Match.SAME
    intervals = _interval(gold), _interval(answer)
    if intervals[0] is not None and intervals[1] is not None and _variable(gold) == _variable(answer):
        return same(intervals[0], intervals[1], equal)
    if not (set(gold.operators) | set(answer.operators)) <= set(_FLIPPED):
        return Match.DIFFERENT if Match.DIFFERENT in matches else Match.UNREADABLE
    if any(map(is_constant, (gold.text.replace("=", ""), answer.text.replace("=", "")))):
        return Match.DIFFERENT
    return equal(gold.text, answer.text)


def _two_equations(gold: Relation, answer: Relation, same: CompareShapes, equal: Equal) -> Match:
    first, last = gold.sides[0], gold.sides[-1]
    other_first, other_last = answer.sides[0], answer.sides[-1]
    values = read_shape(last), read_shape(other_last)
    if layout_key(first).casefold() == layout_key(other_first).casefold():
        match = same(*values, equal)
        repeated = set(LETTER.findall(first)) & (set(LETTER.findall(last)) | set(LETTER.findall(other_last)))
        if match is not Match.DIFFERENT or (is_name(first) and not repeated) or is_constant(first):
            return match
    elif is_name(first) and is_name(other_first):
        renamed = _renamed(first, other_first, other_last)
        return Match.DIFFERENT if renamed is None else same(values[0], read_shape(renamed), equal)
    if same_layout(first, other_last) and is_name(first):
        return same(values[0], read_shape(other_first), equal)
    if all(is_constant(side) for side in (*gold.sides, *answer.sides)):
        return every((same(read_shape(first), read_shape(other_first), equal), same(*values, equal)))
    if r"\in" in gold.operators or is_constant(gold.text.replace("=", "")) or is_constant(answer.text.replace("=", "")):
        return Match.DIFFERENT
    return equal(f"{first}={last}", f"{other_first}={other_last}")


def _renamed(first: str, other_first: str, value: str) -> str | None:
    """Rename the argument in a function's value: ``n+1`` for ``f(x)=x+1`` and the gold's ``f(n)``.

    Returns None unless both sides are the same function of one letter.
    """
    expected, given = (FUNCTION.fullmatch(side.replace(" ", "")) for side in (first, other_first))
    if expected is None or given is None or expected["name"] != given["name"]:
        return None
    new, old = expected["argument"], given["argument"]
    tokens = _TOKEN.findall(value)
    if not (len(new) == len(old) == 1 and new.isalpha() and old.isalpha()) or new in tokens:
        return None
    return "".join(new if token == old else token for token in tokens)


def _variable(relation: Relation) -> str:
    return next(layout_key(side) for side in relation.sides if is_name(side) and not is_constant(side))


def _interval(shape: Shape) -> Shape | None:
    r"""Return the interval of the one variable in ``a \leq x < b``, ``x < b`` or ``a \leq x``; None for other shapes."""
    if not isinstance(shape, Relation) or not set(shape.operators) <= set(_ORDER):
        return None
    sides, operators = shape.sides, shape.operators
    if operators[0] in (">", r"\geq"):
        sides, operators = sides[::-1], tuple(_FLIPPED[operator] for operator in operators[::-1])
    if not set(operators) <= {"<", r"\leq"}:
        return None
    match sides:
        case (low, name, high):
            pass
        case (name, high) if is_name(name) and not is_constant(name):
            low, operators = r"-\infty", ("<", *operators)
        case (low, name):
            high, operators = r"\infty", (*operators, "<")
        case _:
            return None
    if not is_name(name) or is_constant(name) or not (is_constant(low) and is_constant(high)):
        return None
    opening, closing = ("(" if operators[0] == "<" else "["), (")" if operators[1] == "<" else "]")
    return Sequence(f"{opening}{low},{high}{closing}", (read_shape(low), read_shape(high)), opening, closing)


def _as_union(shape: Shape) -> Shape | None:
    r"""Convert inequalities in one variable, such as ``x<2 \text{ or } x>3``, to a union of intervals; else None."""
    if not isinstance(shape, Collection) or shape.joined != "or":
        return None
    intervals = [_interval(part) for part in shape.parts]
    names = {
        _variable(part) for part, i in zip(shape.parts, intervals, strict=True) if i and isinstance(part, Relation)
    }
    if None in intervals or len(names) != 1:
        return None
    parts = tuple(interval for interval in intervals if interval is not None)
    return Union(r"\cup ".join(part.text for part in parts), parts)


def compare_sets(gold: Shape, answer: Shape, same: CompareShapes, equal: Equal) -> Match:
    """Compare unions of intervals part by part in any order, and other sets of numbers by math-verify."""
    expected, given = _as_union(gold) or gold, _as_union(answer) or answer
    if (
        isinstance(expected, Union)
        and isinstance(given, Union)
        and len(expected.parts) == len(given.parts) <= MAX_UNMATCHED_PARTS
    ):
        remaining = list(given.parts)
        for part in expected.parts:
            equal_part = next((other for other in remaining if same(part, other, equal) is Match.SAME), None)
            if equal_part is None:
                break
            remaining.remove(equal_part)
        else:
            return Match.SAME
    if (
        _is_set(expected)
        and _is_set(given)
        and (isinstance(expected, Union) or isinstance(given, Union) or _has_set_signs(expected, given))
    ):
        return equal(expected.text, given.text)
    return Match.DIFFERENT


def _has_set_signs(*shapes: Shape) -> bool:
    return any(_SET_SIGNS.search(shape.text) for shape in shapes)


def _is_set(shape: Shape) -> bool:
    if isinstance(shape, Sequence):
        return len(shape.parts) == 2
    return (
        isinstance(shape, Union)
        or (isinstance(shape, Collection) and shape.braces)
        or (isinstance(shape, Scalar) and _has_set_signs(shape))
    )
