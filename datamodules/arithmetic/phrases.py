"""The sentences of this domain: the writer fills them in, the truth parser reads them back.

One list serves both, so a phrasing cannot be written that is not understood. Placeholders: ``{claim}`` is the equation
that the paragraph asserts, ``{denied}`` one that it rejects, ``{start}`` and ``{modulus}`` numbers of the problem,
``{claims}`` the equations restated in the answer block, ``{answer}`` the boxed number.
"""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """What a paragraph does. CHECK and CORRECTION are the reflections."""

    OPENING = "opening"
    FILLER = "filler"
    STEP = "step"
    CHECK = "check"
    CORRECTION = "correction"
    ANSWER = "answer"


OPENINGS = (
    "Okay, I start with {start} and work modulo {modulus}.",
    "Alright, the first number is {start}, modulo {modulus}.",
    "Let me begin with {start} and keep everything modulo {modulus}.",
)
FIRST_STEPS = ("First, {claim}.", "To begin, {claim}.")
STEPS = ("Next, {claim}.", "Then {claim}.", "Now {claim}.", "After that, {claim}.")
REDONE_STEPS = ("With that, {claim}.", "Going on again, {claim}.", "So now {claim}.")
CHECKS = (
    "Let me double-check {claim}. Yes, that is right.",
    "Wait, is {claim} right? Yes, it is.",
    "Let me verify that {claim}. That holds.",
)
CORRECTIONS = (
    "Wait, {denied} is wrong. It should be {claim}.",
    "Hmm, {denied} is not right. Actually, {claim}.",
    "Wait, is {denied} right? No, {claim}.",
    "I made a mistake: {denied} is wrong, because {claim}.",
)
# Marker words without a reflection: a reader that counts "wait" and "hmm" as corrections is misled.
FILLERS = ("Hmm, let me see what comes next.", "Wait, I should keep the order in mind.")
ANSWERS = (
    "So {claims}, and the answer is \\boxed{{{answer}}}.",
    "We have {claims}. The answer is \\boxed{{{answer}}}.",
    "From last to first: {claims}. The result is \\boxed{{{answer}}}.",
)

THINK_END = "</think>"
PARAGRAPH_END = "\n\n"
