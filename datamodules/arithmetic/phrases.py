"""Sentence templates of the domain, shared by the writer, which fills them in, and the parser in ``truth.py``.

Because both use one list, every sentence that is written can be parsed. Placeholders: ``{claim}`` is the equation that
the paragraph asserts, ``{denied}`` one that it rejects, ``{start}`` and ``{modulus}`` numbers of the problem,
``{claims}`` the equations restated in the answer block, ``{answer}`` the boxed number.
"""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """Kind of a paragraph. CHECK and CORRECTION are the reflections."""

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
# Marker words without a reflection: a judge that treats every "wait" and "hmm" as a correction is wrong here.
FILLERS = ("Hmm, let me see what comes next.", "Wait, I should keep the order in mind.")
ANSWERS = (
    "So {claims}, and the answer is \\boxed{{{answer}}}.",
    "We have {claims}. The answer is \\boxed{{{answer}}}.",
    "From last to first: {claims}. The result is \\boxed{{{answer}}}.",
)

THINK_END = "</think>"
PARAGRAPH_END = "\n\n"
