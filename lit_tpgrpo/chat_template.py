"""A tokenizer's chat template, filled in with one user turn.

Templates come with models, from anywhere. transformers fills them in in Jinja's immutable sandbox, where they reach nothing of
Python or the machine; it does not bound the time and memory that they use.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.errors import ConfigError

_OF_EXPRESSIONS = (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""What Jinja lets through: of ``{{ 1 / 0 }}``, ``{{ messages + 1 }}``, a range that is too long for the sandbox."""


def user_turn(tokenizer: PreTrainedTokenizerBase, content: str, *, tokenize: bool, **options: Any) -> Any:
    """Fill in the chat template, up to where the answer begins: token ids, or the text.

    Args:
        tokenizer: has a chat template.
        content: what the user says.
        tokenize: whether ids are wanted.
        options: variables of the template.

    Raises:
        ConfigError: the template cannot be filled in, or tries what the sandbox forbids.
    """
    turn = [{"role": "user", "content": content}]
    try:
        return tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, tokenize=tokenize, return_dict=False, **options
        )
    except (TemplateError, *_OF_EXPRESSIONS) as error:
        raise ConfigError(
            f"the chat template of the tokenizer {tokenizer.name_or_path!r} cannot be filled in: {error}; look at it, and take "
            "another model if you do not trust it"
        ) from error
