"""The erring policy's tokenizer: two tokens an equation and one a phrase, so that thirty steps take 210 tokens, not 570.

What a token costs is a forward pass in sampling and a position in training, and what must be learnt gets easier: which
operation comes next is one choice, as is its result.
"""

from __future__ import annotations

from collections.abc import Iterable
from string import Formatter

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.datamodules.arithmetic import phrases
from lit_tpgrpo.datamodules.arithmetic.problems import STATEMENT, Level
from lit_tpgrpo.datamodules.arithmetic.tiny import MAX_LENGTH
from lit_tpgrpo.datamodules.arithmetic.tokenizer import NAMED_TOKENS, added_tokens, build_tokenizer, equation_tokens

_BYTES = 256


def fixed_texts(templates: Iterable[str]) -> list[str]:
    """Return what templates have before, between and after their placeholders, each once, in order."""
    parts = (text for template in templates for text, *_ in Formatter().parse(template) if text)
    return list(dict.fromkeys(parts))


def phrase_texts(level: Level) -> list[str]:
    """Return the texts that are tokens: all fixed ones of statements and sentences, and a statement's operations."""
    sentences = (*phrases.OPENINGS, *phrases.FIRST_STEPS, *phrases.STEPS, *phrases.REDONE_STEPS, *phrases.CHECKS,
                 *phrases.CORRECTIONS, *phrases.FILLERS)  # fmt: skip
    ended = [sentence + phrases.PARAGRAPH_END for sentence in sentences]
    fixed = fixed_texts((STATEMENT, *ended, *sentences, *phrases.ANSWERS))
    operations = [f", {operation.words}" for operation in level.operations]
    return list(dict.fromkeys([", ", phrases.PARAGRAPH_END, *fixed, *operations]))


def phrase_tokenizer(level: Level) -> PreTrainedTokenizerBase:
    """Build the tokenizer for problems of a level; results are below twice the modulus. Other text is bytes."""
    tokenizer = build_tokenizer((), _BYTES + len(NAMED_TOKENS), MAX_LENGTH)
    tokenizer.add_tokens([*added_tokens(phrase_texts(level)), *equation_tokens(2 * level.modulus)])
    return tokenizer
