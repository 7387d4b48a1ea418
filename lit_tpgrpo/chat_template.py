"""Fill in a tokenizer's chat template with one user turn.

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


def user_turn(tokenizer: PreTrainedTokenizerBase, content: str, *, tokenize: bool, **options: Any) -> Any:
    """Fill in the chat template up to where the model's reply begins; return token ids or text.

    Args:
        tokenizer: a tokenizer with a chat template.
        content: the user's message.
        tokenize: return token ids instead of text.
        options: variables of the template.

    Raises:
        ConfigError: the template cannot be rendered, or does something that the sandbox forbids.
    """
    turn = [{"role": "user", "content": content}]
    try:
        return tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, tokenize=tokenize, return_dict=False, **options
        )
    except (TemplateError, *_EXPRESSION_ERRORS) as error:
        raise ConfigError(
            f"the chat template of the tokenizer {tokenizer.name_or_path!r} cannot be filled in: {error}; check it, and choose "
            "another model if you do not trust it"
        ) from error
