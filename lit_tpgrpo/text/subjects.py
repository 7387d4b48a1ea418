"""Find the subject of "is wrong", if it is a statement of the solver.

Most sentences of real chains that call something wrong refer to something else: an answer choice, the problem, an idea in a
question. They have no subject here, and deny nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_tpgrpo.text.equations import Equation, begins_whole, ends_whole, find_expressions, normalise


@dataclass(frozen=True, slots=True)
class Subject:
    """What a verdict refers to: quoted ``equations``, or a plain ``value``; without either, it points back to earlier text."""

    equations: tuple[Equation, ...] = ()
    value: str | None = None


_BETWEEN = re.compile(
    r"[\s,;'\").:]*(?:(?P<pronoun>which|that|this|it)[\s,]+|(?:I|we|had|got|have|wrote|said|found|computed|calculated|used"
    r"|claimed|earlier|before|above|there|here|itself|really|clearly|obviously|definitely|also|then|just|from|in|step|but"
    r"|and|\d+)\b[\s,]*)*",
    re.IGNORECASE,
)
"""Words between a statement and the verdict on it: "8 * 2 = 4, which I got before, is wrong"."""
_REASON = re.compile(r"\b(?:since|because|as|given|with|if|when|but)\W+(?:\w+\W+){0,3}$", re.IGNORECASE)
_PLAIN = re.compile(
    r"(?:\W|\b(?:wait|hmm*|oh|no|so|but|and|then|ok|okay|actually|oops|the|my|our|that|this|it|a|an|of|is|i|think|value|answer"
    r"|result|number|total|sum|product|count|previous|earlier|first|last|original|initial|final|here|to|get|getting|got"
    r"|saying|having|writing|using|hold|on)\b)*",
    re.IGNORECASE,
)
"""Words before a plain value that is the whole subject: "so the answer 12", but not "each cycle contributes a factor of 2"."""
_HELD = re.compile(
    r"\b(?:thought|said|had|got|found|wrote|assumed|claimed|calculated|computed|believed|concluded|counted)"
    r"(?: (?:that|it|the|there|was|were|is|are|be|would|to|of|as|at|my|answer|result|value|sum|total|count|number)\b)*\s+$",
    re.IGNORECASE,
)
"""Words before a claim that the solver quotes: "I thought it was 49, but that was wrong"."""
_POINTER = re.compile(
    r"\b(?:that|this|it|these|those|everything)(?: (?:also|just|really|clearly|definitely|still|all|now|then))?\W*$"
    r"|\b(?:that|this|the|my|our|these|those) "
    r"(?:(?:last|previous|earlier|above|first|second|initial|original|calculated|final) )*"
    r"(?:results?|answer|value|number|calculations?|computations?|equations?|expression|formula|sum|product|total|count|step"
    r"|assumption|conclusion|reasoning|approach|statement|claim|work|part|line)(?: (?:above|here|earlier|before))?\W*$"
    r"|^(?:\W|\b(?:wait|hmm*|oh|no|so|but|and|ok|okay|oops)\b)*$",
    re.IGNORECASE,
)
"""Words before a verdict that points back: "that", "my last result", or nothing ("No, wrong.")."""
_LOOK_BACK = 80


def find_subject(sentence: str, verdict: re.Match[str], equations: Sequence[Equation]) -> Subject | None:
    """Return the subject of a verdict; None if it is not a statement of the solver.

    Args:
        sentence: the flattened sentence.
        verdict: match of ``CALLS_WRONG`` with a "predicate".
        equations: the sentence's equations.
    """
    start = verdict.start()
    earlier = [e for e in equations if e.end <= start]
    between = _BETWEEN.fullmatch(sentence, earlier[-1].end, start) if earlier else None
    head = sentence[max(0, start - _LOOK_BACK) : start]
    if between and not (between["pronoun"] and _matches_before(_REASON, sentence, earlier[-1].start)):
        return Subject(_chain(earlier))
    values = [v for v in find_expressions(sentence, 0, start) if any(c.isdigit() for c in v[0])]
    value = values[-1] if values else None
    if value is not None and earlier and value.start() < earlier[-1].end:
        value = None
    if value is not None and begins_whole(sentence, *value.span()) and ends_whole(sentence, value.end()):
        clause = re.split(r"[.;:,!?]\s", sentence[max(0, value.start() - _LOOK_BACK) : value.start()])[-1]
        if not sentence[value.end() : start].strip(" ,'\".)") and _PLAIN.fullmatch(clause):
            return Subject(value=normalise(value[0]))
        if _POINTER.search(head) and _matches_before(_HELD, sentence, value.start()):
            return Subject(value=normalise(value[0]))
    if not _POINTER.search(head):
        return None
    if earlier and _matches_before(_HELD, sentence, earlier[-1].start):
        return Subject(_chain(earlier))
    return Subject()


def _chain(equations: Sequence[Equation]) -> tuple[Equation, ...]:
    """Return the last equation with those written in one chain with it, such as ``a = b = c``."""
    first = len(equations) - 1
    while first and equations[first - 1].end > equations[first].start:
        first -= 1
    return tuple(equations[first:])


def _matches_before(pattern: re.Pattern[str], sentence: str, position: int) -> bool:
    return pattern.search(sentence[max(0, position - _LOOK_BACK) : position]) is not None
