"""Checks that all engines apply to a model and its prompts before sampling."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.token_arrays import Offsets


def stop_ids(model: PreTrainedModel, tokenizer_eos: int | None) -> list[int]:
    """Return the ids that end a solution, ascending: the tokenizer's EOS and those in the model's generation config.

    Chat models list more than one.

    Raises:
        ConfigError: there is none.
    """
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = {tokenizer_eos} if tokenizer_eos is not None else set()
    ids |= set(configured) if isinstance(configured, list) else ({configured} if configured is not None else set())
    if not ids:
        raise ConfigError(
            "no end token: neither the tokenizer nor the generation config names an EOS token; "
            "set tokenizer.eos_token or generation_config.eos_token_id"
        )
    return sorted(ids)


def position_limit(model: PreTrainedModel) -> int | None:
    """Return the most tokens of prompt and completion together; None if the model has no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_lengths(prompts: Sequence[Offsets], max_new_tokens: int, limit: int | None) -> None:
    """Check that all prompts fit the model's positions, before anything is sampled.

    Raises:
        InputError: a prompt is empty, or with ``max_new_tokens`` it exceeds ``limit``.
    """
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(f"prompt {i} is empty: sampling needs at least one token to start from")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise InputError(
                f"prompt {i} has {len(prompt)} tokens and max_new_tokens is {max_new_tokens}, together more than the "
                f"{limit} positions of the model; lower max_new_tokens or max_prompt_tokens"
            )
