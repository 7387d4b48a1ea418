"""Problems to token-id prompts: the instruction, the chat template, the length limit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from string import Formatter
from typing import Literal, cast

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.chat_template import user_turn
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem

log = logging.getLogger(__name__)

INSTRUCTION = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def prompt_ids(tokenizer: PreTrainedTokenizerBase, problem: Problem, template: str = INSTRUCTION) -> tuple[int, ...]:
    """Tokenize the problem as one user turn in the chat template, up to the answer (R1-style templates open the think
    block). Without a chat template the text itself is the prompt.

    Raises:
        ConfigError: the template has no ``{problem}``, or other braces that are not doubled.
    """
    text = filled(template, problem.prompt)
    if tokenizer.chat_template is None:
        return tuple(tokenizer(text)["input_ids"])
    return tuple(cast(list[int], user_turn(tokenizer, text, tokenize=True)))


def filled(template: str, problem: str) -> str:
    """Replace ``{problem}`` by the problem.

    Nothing else of ``str.format`` is allowed: ``{problem:999999999}`` would produce as many characters.

    Raises:
        ConfigError: there are other braces that are not doubled.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"prompt_template must hold {{problem}} and double all other braces: {error}") from error
    for _, name, form, conversion in parts:
        if name is not None and (name != "problem" or form or conversion):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise ConfigError(f"prompt_template must hold {{problem}} and double all other braces, got {{{shown:.80}}}")
    return "".join(text + (problem if name is not None else "") for text, name, _, _ in parts)


def filter_long_prompts(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_tokens: int,
    on_long: Literal["skip", "stop"],
) -> tuple[list[Problem], int]:
    """Return the problems whose prompts have at most ``max_tokens`` tokens, and the number dropped.

    Raises:
        InputError: a prompt is too long and ``on_long`` is ``stop``, none is left, or a source gave no ``Problem`` objects.
        ConfigError: the template has no ``{problem}``.
    """
    if "{problem}" not in template:
        raise ConfigError(f"prompt_template must hold {{problem}}, got {template!r}")
    fitting = []
    for problem in problems:
        if not isinstance(problem, Problem):
            raise InputError(
                f"expected a source's load() to return lit_tpgrpo.records.Problem objects, got {type(problem).__name__}: "
                f"{str(problem)[:80]}; MemoryProblems(rows) makes them of rows"
            )
        length = len(prompt_ids(tokenizer, problem, template))
        if length <= max_tokens:
            fitting.append(problem)
        elif on_long == "stop":
            raise InputError(
                f"the prompt of problem {problem.uid!r} has {length} tokens, over max_prompt_tokens {max_tokens}; raise "
                "the limit, or set on_long_prompt to skip"
            )
    skipped = len(problems) - len(fitting)
    if problems and not fitting:
        raise InputError(f"all {skipped} prompts are over max_prompt_tokens {max_tokens}; raise the limit")
    if skipped:
        log.warning("%d of %d prompts are over %d tokens and are skipped", skipped, len(problems), max_tokens)
    return fitting, skipped
