"""Patterns of the words by which solvers doubt, reject or confirm their work, each for one sentence (paper, Stage I).

A pattern only detects words; ``reflections.py`` decides what they mean together.
"""

from __future__ import annotations

import re


def _any(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_CLAUSE_START = r"(?:^|[.!?,;:…]\s+|^\W*(?:but|oh|and|so|hmm+|ok|okay|no|ah)\b[,.\s]+)(?:(?:but|oh|so|no),? )?"

NOMINATES = _any(
    # Only as interjections: in "the wait time", "wait until" and "no integer" they are ordinary words.
    rf"{_CLAUSE_START}(?:wait(?! (?:time|until|till|for|list)\b)|no(?=[,.!])|oops|whoops|correction)\b",
    r"\b(?:hm+|actually|hold on|scratch that|on second thought)\b",
    r"\b(?:re-?|double[- ])(?:check|calculat|comput|examin|consider|evaluat|verif|think)",
    r"\blet(?: me|'s|s| us) (?:just )?(?:check|verify|redo|correct|fix)\b",
    r"\bto (?:check|verify)\b",
    r"\b(?:mistake|miscalculat|miscount|misread|mis-?stat|messed up|incorrect|wrong|erroneous)",
    r"\b(?<!standard )errors?\b(?! (?:term|bar|bound))",
    r"(?:\bnot|n't|\bnever|\bcannot) (?:be |quite |actually )?(?:right|correct|true)\b",
    r"\b(?:overlooked|forgot)\b",
    r"\bshould (?:have been|be|actually be)\b",
    r"\binstead of\b|\brather than\b|, not (?=[-\d(])",
)
"""A step with one of these may be a reflection; most such steps are not."""

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
"""A verdict about what precedes it ("predicate"), or an admission about what may follow it."""

BLAMES_STEP = _any(
    r"\b(?:error|mistake|flaw|miscalculation|(?:incorrect|wrong) \w+)(?: [\w']+){0,8} in step (?P<a>\d+)\b",
    r"\b(?:assumption|calculation|computation|claim|conclusion|result|statement|reasoning) (?:in|from|of|at) step (?P<b>\d+) "
    r"(?:is|was)(?: \w+)? (?:wrong|incorrect|mistaken|erroneous|not right|not correct)\b",
    r"\bstep (?P<c>\d+) (?:is|was|has|had|contains|contained)(?: \w+)? (?:wrong|incorrect|mistaken|erroneous|error|mistake)\b",
    r"\bin step (?P<d>\d+), (?:I|we) (?:made|forgot|miscalculated|miscounted|misread|overlooked|(?:\w+ ){1,12}?instead of)\b",
)
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
GUESSES = re.compile(r"\bmust have\b|\bmust be\b|\bprobably\b|\blikely\b|\bthink\b", re.IGNORECASE)
"""Guesses do not blame a step: "I must have made a mistake in step 10"."""
HEDGES = _any(
    r"\b(?:if|whether|unless|might|may|maybe|perhaps|possibly|could|would|suppose|assume|assuming|imagine|in case|avoid)\b",
)
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
YES = _any(r"^\W*(?:yes|yeah|yep|indeed)\b")
NO = _any(r"^\W*(?:but )?(?:no|nope)(?=[,.!;:]|$| (?:it|that|this|wait)\b)")
POINTS_BACK = _any(r"\b(?:that|this|it|these|those|the (?:last|previous|above))\b")
JUDGES = _any(r"\b(?:right|correct|true|wrong|incorrect|mistaken|mistake|error|hold|holds|ok|okay|fine|valid)\b")
"""A question with one of these asks about a statement; one without is a new idea ("Could x = 3?")."""

# The following patterns match directly before an expression.
SUPPOSES = _any(
    r"\b(?:if|suppose|supposing|assume|assuming|let|when|where|for|try|say|set|case|consider|iff)\W+(?:\w+ )?$",
)
REJECTS = _any(
    # Not "310/2 = 155, which is not 150", which only distinguishes two numbers.
    r"(?:[,;:(]\s*|[\d)]\s+)not\s+(?:just |merely )?$",
    r"\b(?:instead of|rather than)\s+(?:just |merely )?$",
)
REPLACES = _any(r"\b(?:should (?:have been|actually be|be)|must be|(?:it|that)(?:'s| is)(?: actually)?|actually,?)\s+")
LOOK_BACK = 40
"""Characters searched before an expression; the limit keeps long sentences linear."""


def matches_before(pattern: re.Pattern[str], sentence: str, position: int) -> bool:
    """Return whether a pattern that ends in ``$`` matches directly before ``position``."""
    return pattern.search(sentence[max(0, position - LOOK_BACK) : position]) is not None
