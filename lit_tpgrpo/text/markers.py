"""Patterns of the words by which solvers doubt, reject or confirm their work, each for one sentence (paper, Stage I).

A pattern only detects words; ``reflections.py`` decides what they mean together. Patterns of many alternatives take most of
the time of a judge without a model, and most sentences have none of their words. So each comes with *stems*: all that it
matches contains at least one of them, whatever the case, and ``has_stem`` is looked up first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby


def _any(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_CLAUSE_START = r"(?:^|[.!?,;:…]\s+|^\W*(?:but|oh|and|so|hmm+|ok|okay|no|ah)\b[,.\s]+)(?:(?:but|oh|so|no),? )?"

NOMINATING: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = (
    # Only as interjections: in "the wait time", "wait until" and "no integer" they are ordinary words.
    (
        ("wait", "no,", "no.", "no!", "oops", "correction"),
        _any(rf"{_CLAUSE_START}(?:wait(?! (?:time|until|till|for|list)\b)|no(?=[,.!])|oops|whoops|correction)\b"),
    ),
    (
        ("hm", "actually", "hold on", "scratch", "second thought"),
        _any(r"\b(?:hm+|actually|hold on|scratch that|on second thought)\b"),
    ),
    (
        ("rech", "recal", "recom", "reex", "recons", "reev", "reve", "reth", "re-", "double"),
        _any(r"\b(?:re-?|double[- ])(?:check|calculat|comput|examin|consider|evaluat|verif|think)"),
    ),
    (
        ("check", "verify", "redo", "correct", "fix"),
        _any(r"\blet(?: me|'s|s| us) (?:just )?(?:check|verify|redo|correct|fix)\b", r"\bto (?:check|verify)\b"),
    ),
    (
        ("mis", "messed", "incorrect", "wrong", "erro"),
        _any(
            r"\b(?:mistake|miscalculat|miscount|misread|mis-?stat|messed up|incorrect|wrong|erroneous)",
            r"\b(?<!standard )errors?\b(?! (?:term|bar|bound))",
        ),
    ),
    (
        ("right", "correct", "true"),
        _any(r"(?:\bnot|n't|\bnever|\bcannot) (?:be |quite |actually )?(?:right|correct|true)\b"),
    ),
    (
        ("overlooked", "forgot", "should", "instead of", "rather than", ", not "),
        _any(
            r"\b(?:overlooked|forgot)\b",
            r"\bshould (?:have been|be|actually be)\b",
            r"\binstead of\b|\brather than\b|, not (?=[-\d(])",
        ),
    ),
)
"""Stems and patterns of marker words. A step with one of these may be a reflection; most such steps are not."""

CALLS_WRONG = _any(
    # Not "false" and "not true": in mathematics these are results, not corrections.
    r"\b(?:(?:is|was|are|were|be|'s|looks?|seems?)(?: \w+)? )?(?P<predicate>wrong|incorrect|mistaken|erroneous"
    r"|(?:not|cannot be|can't be|isn't|wasn't|aren't)(?: \w+)? (?:right|correct)|doesn't (?:match|hold|make sense)"
    r"|(?:is|was|'s) an? (?:\w+ )?(?:mistake|error))\b",
    r"\b(?P<admission>(?:I|we) (?:(?:have|had|must have|think I|realize I|'ve|just|also) ){0,2}"
    r"(?:made (?:an?|the|some) (?:\w+ )?(?:mistake|error)"
    r"|miscalculated|miscounted|misread|mis-?stated|messed up|forgot|overlooked)"
    r"|there(?: is|'s| was| must be) an? (?:\w+ )?(?:mistake|error))\b",
)
CALLS_WRONG_STEMS = ("wrong", "correct", "right", "mis", "erro", "doesn't", "messed", "forgot", "overlooked")
"""A verdict about what precedes it ("predicate"), or an admission about what may follow it."""

BLAMES_STEP = _any(
    r"\b(?:error|mistake|flaw|miscalculation|(?:incorrect|wrong) \w+)(?: [\w']+){0,8} in step (?P<a>\d+)\b",
    r"\b(?:assumption|calculation|computation|claim|conclusion|result|statement|reasoning) (?:in|from|of|at) step (?P<b>\d+) "
    r"(?:is|was)(?: \w+)? (?:wrong|incorrect|mistaken|erroneous|not right|not correct)\b",
    r"\bstep (?P<c>\d+) (?:is|was|has|had|contains|contained)(?: \w+)? (?:wrong|incorrect|mistaken|erroneous|error|mistake)\b",
    r"\bin step (?P<d>\d+), (?:I|we) (?:made|forgot|miscalculated|miscounted|misread|overlooked|(?:\w+ ){1,12}?instead of)\b",
)
BLAMES_STEP_STEMS = ("step ",)
"""Blame of a step by the number that the solver gave it: "we made an error in step 4"."""
STEP_NUMBER = re.compile(r"\W*+step\s*+(\d+)\b", re.IGNORECASE)
"""The number that the solver gave a step, at the beginning of the step."""

ADMITTED_OBJECT = re.compile(
    r"\s+(?:(?:in|when|with|at|on|computing|calculating|writing|saying|that|I|the"
    r"|equation|expression|formula|line)\s+)*",
    re.IGNORECASE,
)
"""Words between "I made a mistake" and the statement it refers to: "when calculating …"."""

OF_THE_PROBLEM = re.compile(
    r"\s*(?:in|with|of)\s+(?:(?:the|this|these|given|original|provided|or|answer) )*"
    r"(?:problem|question|statement|choices?|options?|text|prompt|information|data)\b",
    re.IGNORECASE,
)
"""Words after "there is an error" if the solver means the problem and not its solution."""

NOT_WRONG = _any(
    r"\b(?:nothing|not|n't|no|never|anything|without|any)(?: \w+){0,3}? (?:wrong|incorrect|mistakes?|errors?|false)\b"
)
NOT_WRONG_STEMS = ("wrong", "incorrect", "mistake", "error", "false")
GUESSES = re.compile(r"\bmust have\b|\bmust be\b|\bprobably\b|\blikely\b|\bthink\b", re.IGNORECASE)
"""Guesses do not blame a step: "I must have made a mistake in step 10"."""
HEDGES = _any(
    r"\b(?:if|whether|unless|might|may|maybe|perhaps|possibly|could|would|suppose|assume|assuming|imagine|in case|avoid)\b",
)
HEDGES_STEMS = (
    "if", "whe", "unless", "might", "may", "perhaps", "possibl", "could", "would", "suppos", "assum", "imagin", "in case",
    "avoid",
)  # fmt: skip
"""What follows these is considered, not asserted."""

_IS = r"(?:is|was|are|'s|looks?|seems?)"
_GOOD = r"(?:right|correct|true|fine|good|consistent|ok(?:ay)?)\b"
CALLS_RIGHT = _any(
    r"^\W*(?:and |so |ok(?:ay)?,? )?(?:yes|yeah|yep|right|correct|good|indeed)\b",
    rf"\b(?:that|this|it|which|everything|all|result|answer|calculation|still)(?: \w+)? {_IS}(?: \w+)? {_GOOD}",
    rf"\b(?:that|this|it)'s (?:\w+ )?{_GOOD}",
    r"\b(?:that|this|it|which|everything|still) (?:\w+ )?(?:holds|checks out|matches|works|is so)\b",
    r"\b(?:is|are) (?:indeed |also |both )?correct\b|\bchecks out\b",
)
CALLS_RIGHT_STEMS = (
    "ye", "right", "correct", "good", "indeed", "true", "fine", "consistent", "ok", "holds", "check", "match", "works", "is so",
)  # fmt: skip
YES = _any(r"^\W*(?:yes|yeah|yep|indeed)\b")
NO = _any(r"^\W*(?:but )?(?:no|nope)(?=[,.!;:]|$| (?:it|that|this|wait)\b)")
POINTS_BACK = _any(r"\b(?:that|this|it|these|those|the (?:last|previous|above))\b")
JUDGES = _any(r"\b(?:right|correct|true|wrong|incorrect|mistaken|mistake|error|hold|holds|ok|okay|fine|valid)\b")
"""A question with one of these asks about a statement; one without is a new idea ("Could x = 3?")."""

# The following patterns match directly before an expression.
SUPPOSES = _any(
    r"\b(?:if|suppose|supposing|assume|assuming|let|when|where|for|try|say|set|case|consider|iff)\W+(?:\w+ )?$",
)
SUPPOSES_STEMS = ("if", "suppos", "assum", "let", "whe", "for", "try", "say", "set", "case", "consider")
REJECTS = _any(
    # Not "310/2 = 155, which is not 150", which only distinguishes two numbers.
    r"(?:[,;:(]\s*|[\d)]\s+)not\s+(?:just |merely )?$",
    r"\b(?:instead of|rather than)\s+(?:just |merely )?$",
)
REJECTS_STEMS = ("not", "instead of", "rather than")
REPLACES = _any(r"\b(?:should (?:have been|actually be|be)|must be|(?:it|that)(?:'s| is)(?: actually)?|actually,?)\s+")
LOOK_BACK = 40
"""Characters searched before an expression; the limit keeps long sentences linear."""


def matches_before(pattern: re.Pattern[str], sentence: str, position: int) -> bool:
    """Return whether a pattern that ends in ``$`` matches directly before ``position``."""
    return pattern.search(sentence[max(0, position - LOOK_BACK) : position]) is not None


def supposes_before(sentence: str, position: int) -> bool:
    """Return whether the expression at ``position`` is supposed, not asserted: ``SUPPOSES`` matches directly before it."""
    before = sentence[max(0, position - LOOK_BACK) : position]
    return has_stem(lower(before), SUPPOSES_STEMS) and SUPPOSES.search(before) is not None


def lower(text: str) -> str:
    """Return the text in lower case, with the letters that ``re.IGNORECASE`` takes for i and s replaced by these."""
    if text.isascii():
        return text.lower()
    return text.replace("ı", "i").replace("İ", "i").replace("ſ", "s").lower()


def has_stem(text: str, stems: Iterable[str]) -> bool:
    """Return whether a text (in ``lower`` case) has one of the stems."""
    for stem in stems:  # noqa: SIM110 - ``any`` takes three times as long
        if stem in text:
            return True
    return False


def _any_of(stems: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the stems; grouped by first letters it takes half as long as looking for each."""
    by_letter = groupby(sorted(stems), key=lambda stem: stem[0])
    return re.compile(
        "|".join(f"{re.escape(letter)}(?:{'|'.join(re.escape(s[1:]) for s in same)})" for letter, same in by_letter)
    )


_NOMINATING_STEM = _any_of(stem for stems, _ in NOMINATING for stem in stems)


def nominating(text: str) -> list[re.Pattern[str]]:
    """Return those patterns of marker words that a text (in ``lower`` case) has a stem of."""
    if not _NOMINATING_STEM.search(text):
        return []
    return [pattern for stems, pattern in NOMINATING if has_stem(text, stems)]
