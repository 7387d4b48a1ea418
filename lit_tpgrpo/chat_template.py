"""Fill in a tokenizer's chat template with one user turn, and a system prompt where there is one.

Templates come with models, so they are untrusted. transformers renders them in Jinja's immutable sandbox, which gives them
no access to Python or the machine, but does not limit their time or memory.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.errors import ConfigError

_EXPRESSION_ERRORS = (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""Errors that Jinja does not wrap: of ``{{ 1 / 0 }}``, ``{{ messages + 1 }}``, a range too long for the sandbox."""


def user_turn(
    tokenizer: PreTrainedTokenizerBase,
    content: str,
    *,
    tokenize: bool,
    system: str = "",
    generation_prompt: bool = True,
    **options: Any,
) -> Any:
    """Fill in the chat template up to where the model's reply begins; return token ids or text.

    Args:
        tokenizer: a tokenizer with a chat template.
        content: the user's message.
        tokenize: return token ids instead of text.
        system: the system prompt; "" leaves it to the template, which may write one of its own.
        generation_prompt: end with what begins the model's reply.
        options: variables of the template.

    Raises:
        ConfigError: the template cannot be rendered, or does something that the sandbox forbids.
    """
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": content})
    try:
        return tokenizer.apply_chat_template(
            turns, add_generation_prompt=generation_prompt, tokenize=tokenize, return_dict=False, **options
        )
    except (TemplateError, *_EXPRESSION_ERRORS) as error:
        raise ConfigError(
            f"the chat template of the tokenizer {tokenizer.name_or_path!r} cannot be filled in: {error}; check it"
            f"{', try without system prompt' if system else ''}, and choose another model if you do not trust it"
        ) from error
