"""Text of solutions: paragraphs, steps, token spans, answers, notation, and what a step asserts or takes back.

Nothing here imports torch: the verifier's worker processes use it. ``segment_steps`` cuts a completion into steps,
``extract_answer`` gives its final answer, ``token_spans`` the tokens of each stretch of text, ``Statements`` and ``read_step``
what a step says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.text.answers import AnswerForm, extract_answer, extract_boxed, normalise_gold
    from lit_tpgrpo.text.paragraphs import paragraph_spans
    from lit_tpgrpo.text.reflections import Reading, Stance, read_step
    from lit_tpgrpo.text.spans import decode_with_offsets, token_spans
    from lit_tpgrpo.text.statements import Statements
    from lit_tpgrpo.text.steps import segment_steps, steps_from_starts
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "answers": "AnswerForm extract_answer extract_boxed normalise_gold",
            "paragraphs": "paragraph_spans",
            "reflections": "Reading Stance read_step",
            "spans": "decode_with_offsets token_spans",
            "statements": "Statements",
            "steps": "segment_steps steps_from_starts",
        },
    )

__all__ = [
    "AnswerForm",
    "Reading",
    "Stance",
    "Statements",
    "decode_with_offsets",
    "extract_answer",
    "extract_boxed",
    "normalise_gold",
    "paragraph_spans",
    "read_step",
    "segment_steps",
    "steps_from_starts",
    "token_spans",
]
