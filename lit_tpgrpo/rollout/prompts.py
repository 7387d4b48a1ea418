"""Problems to token-id prompts: the instruction, the chat template, the length limit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, cast

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem

log = logging.getLogger(__name__)

INSTRUCTION = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def prompt_ids(tokenizer: PreTrainedTokenizerBase, problem: Problem, template: str = INSTRUCTION) -> tuple[int, ...]:
    """The problem as one user turn in the tokenizer's chat template, ready for the answer (R1-style templates open the
    think block themselves). Without a chat template the bare text is the prompt.

    Raises:
        ConfigError: the template has no ``{problem}``, or other braces that are not doubled.
    """
    try:
        text = template.format(problem=problem.prompt)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"prompt_template must hold {{problem}} and double all other braces: {error!r}") from error
    if tokenizer.chat_template is None:
        return tuple(tokenizer(text)["input_ids"])
    turn = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)
    return tuple(cast(list[int], ids))


def admit(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_tokens: int,
    on_long: Literal["skip", "stop"],
) -> tuple[list[Problem], int]:
    """The problems whose prompt fits into ``max_tokens``, and the number of those that do not.

    Raises:
        InputError: a prompt is too long and ``on_long`` is ``stop``, or none is left.
        ConfigError: the template has no ``{problem}``.
    """
    if "{problem}" not in template:
        raise ConfigError(f"prompt_template must hold {{problem}}, got {template!r}")
    fitting = []
    for problem in problems:
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
