"""Problems to token-id prompts: the instruction, the chat template, the length limit."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, Literal, cast

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.chat_template import user_turn
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem

log = logging.getLogger(__name__)

_RESERVED = frozenset(
    {
        "messages",
        "tokenizer",
        "content",
        "system",
        "tokenize",
        "generation_prompt",
        "add_generation_prompt",
        "return_dict",
    }
)
"""Names that the caller of a chat template sets itself."""
INSTRUCTION = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


@dataclass(frozen=True)
class RolloutPrompt:
    """How a problem becomes a prompt.

    Args:
        user: the user turn, with ``{problem}``.
        system: the system prompt; "" leaves it to the chat template.
        chat_template_kwargs: variables of the chat template, such as ``enable_thinking``.
        apply_chat_template: False: the user turn is all of the prompt, although the tokenizer has a chat template.
    """

    user: str = INSTRUCTION
    system: str = ""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    apply_chat_template: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What stored solutions depend on, by the names of the DataModule's arguments."""
        settings = {
            "prompt_template": self.user,
            "system_prompt": self.system,
            "chat_template_kwargs": dict(self.chat_template_kwargs),
        }
        # Solutions that were stored before there was this setting were sampled with the template.
        return settings if self.apply_chat_template else settings | {"apply_chat_template": False}

    def is_chat(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Return whether the prompt is a chat's user turn; otherwise it is plain text, which the model goes on with."""
        return self.apply_chat_template and tokenizer.chat_template is not None

    def render(self, tokenizer: PreTrainedTokenizerBase, problem: Problem, *, generation_prompt: bool = True) -> str:
        """Return the prompt as text, with or without what begins the model's reply."""
        text = filled(self.user, problem.prompt)
        if not self.is_chat(tokenizer):
            return text
        options = {"system": self.system, "generation_prompt": generation_prompt, **self.chat_template_kwargs}
        return str(user_turn(tokenizer, text, tokenize=False, **options))

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that there is a chat template where one is needed, and that it uses the given variables.

        Raises:
            ConfigError: it is not so.
        """
        written = tokenizer.chat_template
        source = "".join(written.values()) if isinstance(written, Mapping) else str(written or "")
        if not self.apply_chat_template:
            if self.system or self.chat_template_kwargs:
                raise ConfigError(
                    "data.apply_chat_template false leaves no place for data.system_prompt and data.chat_template_kwargs; "
                    "leave them out, and write all of the prompt into data.prompt_template"
                )
            return
        if not source and (self.system or self.chat_template_kwargs):
            raise ConfigError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template for data.system_prompt and "
                "data.chat_template_kwargs; leave them out, and write all of the prompt into data.prompt_template"
            )
        for name in self.chat_template_kwargs:
            if name in _RESERVED or not re.search(rf"\b{re.escape(name)}\b", source):
                raise ConfigError(
                    f"data.chat_template_kwargs: the chat template of {tokenizer.name_or_path!r} does not use {name!r}; leave "
                    "it out, or look for the name in the model's chat template"
                )


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, template: RolloutPrompt | None = None
) -> tuple[int, ...]:
    """Tokenize the problem as one user turn in the chat template, up to the answer (R1-style templates open the think
    block). Without a chat template, or where it is not to be applied, the text itself is the prompt.

    Raises:
        ConfigError: the template has no ``{problem}``, or other braces that are not doubled.
    """
    template = RolloutPrompt() if template is None else template
    text = filled(template.user, problem.prompt)
    if not template.is_chat(tokenizer):
        return tuple(tokenizer(text)["input_ids"])
    options = {"system": template.system, **template.chat_template_kwargs}
    return tuple(cast(list[int], user_turn(tokenizer, text, tokenize=True, **options)))


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
    template: RolloutPrompt,
    max_tokens: int,
    on_long: Literal["skip", "stop"],
) -> tuple[list[Problem], int]:
    """Return the problems whose prompts have at most ``max_tokens`` tokens, and the number dropped.

    Raises:
        InputError: a prompt is too long and ``on_long`` is ``stop``, none is left, or a source gave no ``Problem`` objects.
        ConfigError: the template has no ``{problem}``.
    """
    if "{problem}" not in template.user:
        raise ConfigError(f"prompt_template must hold {{problem}}, got {template.user!r}")
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
