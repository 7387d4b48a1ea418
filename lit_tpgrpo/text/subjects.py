"""What a verdict is about: the subject of "is wrong", where it is something that the solver said and that can be quoted.

Most sentences of real chains that call something wrong are about something else: a choice that is offered, the problem,
an idea that was only asked about. Those have no subject here, and deny nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_tpgrpo.text.equations import Equation, begins_whole, ends_whole, find_expressions, normalise


@dataclass(frozen=True, slots=True)
class Subject:
    """``equations`` or a bare ``value`` that is quoted; neither: the verdict points back at what was said before."""

    equations: tuple[Equation, ...] = ()
    value: str | None = None


_BETWEEN = re.compile(
    r"[\s,;'\").:]*(?:(?P<pronoun>which|that|this|it)[\s,]+|(?:I|we|had|got|have|wrote|said|found|computed|calculated|used"
    r"|claimed|earlier|before|above|there|here|itself|really|clearly|obviously|definitely|also|then|just|from|in|step|but"
    r"|and|\d+)\b[\s,]*)*",
    re.IGNORECASE,
)
"""Between a statement and the verdict on it: "8 * 2 = 4, which I got before, is wrong"."""
_REASON = re.compile(r"\b(?:since|because|as|given|with|if|when|but)\W+(?:\w+\W+){0,3}$", re.IGNORECASE)
_PLAIN = re.compile(
    r"(?:\W|\b(?:wait|hmm*|oh|no|so|but|and|then|ok|okay|actually|oops|the|my|our|that|this|it|a|an|of|is|i|think|value|answer"
    r"|result|number|total|sum|product|count|previous|earlier|first|last|original|initial|final|here|to|get|getting|got"
    r"|saying|having|writing|using|hold|on)\b)*",
    re.IGNORECASE,
)
"""Before a bare value that is the whole subject: "so the answer 12". "Each cycle contributes a factor of 2" is none."""
_HELD = re.compile(
    r"\b(?:thought|said|had|got|found|wrote|assumed|claimed|calculated|computed|believed|concluded|counted)"
    r"(?: (?:that|it|the|there|was|were|is|are|be|would|to|of|as|at|my|answer|result|value|sum|total|count|number)\b)*\s+$",
    re.IGNORECASE,
)
"""Before what the solver held: "I thought it was 49, but that was wrong"."""
_POINTER = re.compile(
    r"\b(?:that|this|it|these|those|everything)(?: (?:also|just|really|clearly|definitely|still|all|now|then))?\W*$"
    r"|\b(?:that|this|the|my|our|these|those) "
    r"(?:(?:last|previous|earlier|above|first|second|initial|original|calculated|final) )*"
    r"(?:results?|answer|value|number|calculations?|computations?|equations?|expression|formula|sum|product|total|count|step"
    r"|assumption|conclusion|reasoning|approach|statement|claim|work|part|line)(?: (?:above|here|earlier|before))?\W*$"
    r"|^(?:\W|\b(?:wait|hmm*|oh|no|so|but|and|ok|okay|oops)\b)*$",
    re.IGNORECASE,
)
"""Before a verdict that points back: "that", "my last result", or nothing at all ("No, wrong.")."""
_LOOK_BACK = 80


def find_subject(sentence: str, verdict: re.Match[str], equations: Sequence[Equation]) -> Subject | None:
    """The subject of a verdict ("predicate" of ``CALLS_WRONG``) in its sentence; None where it is nothing of the solver's."""
    start = verdict.start()
    said = [e for e in equations if e.end <= start]
    between = _BETWEEN.fullmatch(sentence, said[-1].end, start) if said else None
    head = sentence[max(0, start - _LOOK_BACK) : start]
    if between and not (between["pronoun"] and _stands_after(_REASON, sentence, said[-1].start)):
        return Subject(_chain(said))
    values = [v for v in find_expressions(sentence, 0, start) if any(c.isdigit() for c in v[0])]
    value = values[-1] if values else None
    if value is not None and said and value.start() < said[-1].end:
        value = None
    if value is not None and begins_whole(sentence, value) and ends_whole(sentence, value.end()):
        clause = re.split(r"[.;:,!?]\s", sentence[max(0, value.start() - _LOOK_BACK) : value.start()])[-1]
        if not sentence[value.end() : start].strip(" ,'\".)") and _PLAIN.fullmatch(clause):
            return Subject(value=normalise(value[0]))
        if _POINTER.search(head) and _stands_after(_HELD, sentence, value.start()):
            return Subject(value=normalise(value[0]))
    if not _POINTER.search(head):
        return None
    if said and _stands_after(_HELD, sentence, said[-1].start):
        return Subject(_chain(said))
    return Subject()


def _chain(said: Sequence[Equation]) -> tuple[Equation, ...]:
    """The last equation with those that are written in one with it: ``a = b = c``."""
    first = len(said) - 1
    while first and said[first - 1].end > said[first].start:
        first -= 1
    return tuple(said[first:])


def _stands_after(pattern: re.Pattern[str], sentence: str, position: int) -> bool:
    return pattern.search(sentence[max(0, position - _LOOK_BACK) : position]) is not None
