"""Protocol for incorrect solutions (paper, Stage I): the think steps whose content the answer block adopts.

Evidence, from the text alone: an equation that both assert, the final value announced in a step, and, if the answer block
has no box, a sentence that both contain verbatim. Content of the problem is no evidence: both copy it from there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from lit_tpgrpo.text.answers import extract_boxed
from lit_tpgrpo.text.equations import Equation, ends_whole, extract_equations, normalise
from lit_tpgrpo.text.flattening import flatten
from lit_tpgrpo.text.reflections import read_step
from lit_tpgrpo.text.step_text import StepText, squeeze

Pairs = frozenset[frozenset[str]]
Letters = tuple[tuple[str, bool], ...]

_BE = (
    r"(?:is|are|=|:|equals?|(?:must|should|will|would|has to|ought to) (?:be|equal)|comes (?:out )?to|turns out to be)"
)
_ANNOUNCES = re.compile(
    rf"\b(?:answer|result|solution|value|total)\b[^.\n]{{0,40}}?(?:\b{_BE}(?!\w)|[=:])"
    r"|\b(?:we|I)(?: \w+)? (?:get|obtain|find|conclude|arrive at|end up with|are left with)\b(?: that)?"
    r"|\b(?:thus|so|hence|therefore)\b,? (?:we|I) have\b",
    re.IGNORECASE,
)
"""Words directly before a value that is presented as the result."""
_COMES_TO = re.compile(
    r"=|≡|\b(?:is|are|be|gives?|yields?|equals?|leaves|makes|so|thus|hence|therefore|in|of)\b,?", re.IGNORECASE
)
"""Words directly before a value that ends a sentence."""
_LEAD = re.compile(
    r"(?:[\s$*:,\"']|\b(?:approximately|about|exactly|just|only|simply|equal to|then|thus|therefore|indeed|actually|option"
    r"|choice)\b)*(?:[A-Za-z]\w{0,2}\s*(?:=|\bin\b)\s*)?",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?<!\s)\s*+[A-Za-z]\w{0,2}\s++in\b")
_SKIPPED = frozenset(" \t\n(){}*$")
_WITHOUT_SKIPPED = str.maketrans(dict.fromkeys(_SKIPPED))
_SENTENCE = re.compile(r"(?<=[.?!])\s+|\n+")
# A unit or a few words that name the counted things may follow. Possessive: each run of blanks or words is scanned once.
_ENDS = re.compile(
    r"[)}*$ ]*+(?:\(?\bmod \w++|(?<= )[A-Za-z°]++(?: [A-Za-z°]++){0,5}+|)[)}*$ ]*+(?:[.!]?\s*+$|[.!]\s|\n)"
)
_MAX_LEAD, _MAX_VALUE = 200, 400
"""Most characters read as words before a value, and as a value, at each position: bounds that keep the search linear."""
_MIN_WORDS = 3
_MAX_SOUGHT = 64
"""Most equations of an answer that are looked for in the text of each step; steps are all parsed if it has more of them."""


def adopted_steps(steps: Sequence[StepText], answer: str, prompt: str = "") -> set[int]:
    """Return the indices of the think steps that share an equation with the answer block or announce its final value.

    The value alone is weak evidence (small numbers recur). It counts for the last step with an equation that results in
    it, for every such step only if the answer repeats no equation, and for a sentence that ends in it only if there is
    no other evidence.

    Args:
        steps: the think steps. Only those with the text of an equation or value of the answer are parsed.
        answer: the answer block, without tags.
        prompt: the problem, whose equations are no evidence.
    """
    givens = given_pairs(prompt)
    taken = statement_pairs(read_step(answer).asserted) - givens
    adopted = _asserting(steps, taken)
    written = _boxed(answer)
    if written is None:
        adopted |= _repeats(steps, answer, prompt)
        written = _stated_value(flatten(answer))
    value = normalise(written or "")
    if not written or not value or len(value) > _MAX_VALUE:
        return adopted
    letters = _letters(written)
    squeezed = squeeze(value)
    arrives = [
        i for i, s in enumerate(steps) if s.may_state(squeezed) and _arrives(s.reading().asserted, value, givens)
    ]
    spelled = "".join(letter for letter, _ in letters)
    may_have = squeeze(spelled)
    written_in = {
        i for i, s in enumerate(steps) if s.may_state(may_have) and spelled in s.flat.translate(_WITHOUT_SKIPPED)
    }
    announced = {
        i
        for i, step in enumerate(steps)
        if final_value(step.text) == value or (i in written_in and _announces(step.flat, letters))
    }
    if not announced and not arrives:
        arrives = [i for i in sorted(written_in) if _comes_to(steps[i].flat, letters)][-1:]
    return announced | (adopted | set(arrives[-1:]) if adopted else set(arrives))


def _asserting(steps: Sequence[StepText], taken: Pairs) -> set[int]:
    """Return the steps that assert one of the equations."""
    if not taken:
        return set()
    longer = {max((squeeze(side) for side in pair), key=len) for pair in taken}
    within = longer if len(longer) <= _MAX_SOUGHT else {""}
    may = (i for i, step in enumerate(steps) if any(step.may_state(side) for side in within))
    return {i for i in may if taken & statement_pairs(steps[i].reading().asserted)}


@lru_cache(maxsize=256)
def given_pairs(prompt: str) -> Pairs:
    """Return the equations of a problem, including those it only assumes; cached, for its solutions are judged together."""
    return statement_pairs(extract_equations(flatten(prompt)))


def statement_pairs(equations: Sequence[Equation]) -> Pairs:
    """Return the equations as unordered pairs; a chain ``a = b = c`` also states ``a = c``."""
    pairs: set[frozenset[str]] = set()
    head, end = "", -1
    for equation in equations:
        if equation.start >= end:
            head = equation.lhs
        end = equation.end
        pairs |= {frozenset(equation.key), frozenset((head, equation.rhs))}
    return frozenset(pair for pair in pairs if len(pair) == 2)


def final_value(text: str) -> str | None:
    """Return the normalised content of the last box, without a leading ``x =`` or ``x in``; None if there is no box."""
    return normalise(_boxed(text) or "") or None


def _boxed(text: str) -> str | None:
    """Return the flattened content of the last box."""
    boxed = extract_boxed(text) if "box" in text else None
    return _bare(flatten(boxed)) if boxed else None


def _bare(flat: str) -> str:
    return _NAMED.sub("", flat.rpartition("=")[2]).lstrip(" \t\n$*\"':").rstrip(" \t\n$*\"':.,;")


def _stated_value(flat: str) -> str | None:
    """Return the value that an answer block without a box announces last, up to the end of its sentence."""
    said = list(_ANNOUNCES.finditer(flat))
    return _bare(_SENTENCE.split(flat[said[-1].end() :].strip(), maxsplit=1)[0]) if said else None


def _announces(flat: str, letters: Letters) -> bool:
    """Return whether a step presents the value as the result."""
    ends = (_value_end(flat, said.end(), letters) for said in _ANNOUNCES.finditer(flat))
    return any(end is not None and ends_whole(flat, end) for end in ends)


def _comes_to(flat: str, letters: Letters) -> bool:
    """Return whether a sentence of a step ends in the value."""
    ends = (_value_end(flat, said.end(), letters) for said in _COMES_TO.finditer(flat))
    return any(end is not None and _ENDS.match(flat, end) for end in ends)


def _arrives(asserted: Sequence[Equation], value: str, givens: Collection[frozenset[str]]) -> bool:
    return any(e.rhs == value and frozenset(e.key) not in givens for e in asserted)


def _letters(flat: str) -> Letters:
    """Return the characters of a value, each with whether brackets or blanks separate it from a digit before it."""
    letters: list[tuple[str, bool]] = []
    separated = False
    for letter in flat:
        if letter not in _SKIPPED:
            letters.append((letter, separated and letters[-1][0].isdigit()))
        separated = bool(letters) and letter in _SKIPPED
    return tuple(letters)


def _value_end(flat: str, start: int, letters: Letters) -> int | None:
    """Return the end of the value if it occurs at ``start``, else None. Brackets and blanks are ignored.

    Except between digits: ``4 2`` is not 42.
    """
    lead = _LEAD.match(flat, start, start + _MAX_LEAD)
    position = lead.end() if lead else start
    for number, (letter, separated) in enumerate(letters):
        begin = position
        while position < len(flat) and flat[position] in _SKIPPED:
            position += 1
        if position == len(flat) or flat[position] != letter:
            return None
        if number and letter.isdigit() and flat[begin - 1].isdigit() and (position > begin) != separated:
            return None
        position += 1
    while position < len(flat) and flat[position] in ")}":
        position += 1
    glued = flat[position : position + 1]
    return None if not letters or glued.isalnum() or glued == "_" else position


def _repeats(steps: Sequence[StepText], answer: str, prompt: str) -> set[int]:
    """Return the steps that contain a sentence of the answer block verbatim, unless the problem contains it too."""
    wanted = _sentences(answer) - _sentences(prompt)
    return {i for i, step in enumerate(steps) if wanted & _sentences(step.text)}


def _sentences(text: str) -> set[str]:
    sentences = (" ".join(sentence.split()) for sentence in _SENTENCE.split(text))
    return {sentence for sentence in sentences if sentence.count(" ") >= _MIN_WORDS - 1}
