"""Sources of a module's language model and tokenizer: a name, or objects in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.arguments import accepted, shown
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.pretrained import IN_MEMORY, HubOptions, check_tokenizer, load_causal_lm, load_tokenizer
from lit_tpgrpo.training.adapters import four_bit


class ModelSource(Protocol):
    """Builds a model on request. ``name`` is recorded in checkpoints: a folder or hub name, if it has one."""

    @property
    def name(self) -> str: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def build(self) -> PreTrainedModel: ...


@dataclass(frozen=True)
class NamedModel:
    """A folder, hub name or embedded model, loaded by ``build``."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype | None
    attention: str
    random_init: bool
    quantization: Literal["nf4"] | None
    options: HubOptions

    def build(self) -> PreTrainedModel:
        """Load the model."""
        quantized = four_bit() if self.quantization else None
        return load_causal_lm(self.name, self.random_init, self.dtype, self.attention, quantized, self.options)


@dataclass(frozen=True)
class GivenModel:
    """A model that the user built: it is trained itself, not a copy of it."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    dtype: torch.dtype | None

    def build(self) -> PreTrainedModel:
        """Return the model in the requested dtype."""
        return self.model if self.dtype is None else self.model.to(self.dtype)  # pyright: ignore[reportArgumentType]


def model_source(
    model: str | PreTrainedModel,
    tokenizer: str | PreTrainedTokenizerBase | None,
    dtype: torch.dtype | None,
    attention: str,
    random_init: bool,
    quantization: Literal["nf4"] | None,
    options: HubOptions,
) -> ModelSource:
    """Return the source for a model's name or object, with its tokenizer; by default the one that the model's name has.

    Raises:
        ConfigError: the tokenizer cannot be loaded or does not match the model, the object is no causal language model, or a
            setting says how to load a model that is loaded.
    """
    if isinstance(model, str):
        loaded = load_tokenizer(model, options) if tokenizer is None else _tokenizer(tokenizer, options)
        return NamedModel(model, loaded, dtype, attention, random_init, quantization, options)
    given = {"random_init": random_init, "quantization": quantization is not None, "attention": attention != "sdpa"}
    given |= {"revision": options.revision is not None, "trust_remote_code": options.trust_remote_code}
    if set_ := [name for name, is_set in given.items() if is_set]:
        raise ConfigError(
            f"model: {', '.join(set_)} say how a model is loaded, and {type(model).__name__} is an object already; load it as "
            "you need it (from_pretrained), or give its name"
        )
    head = model.get_output_embeddings()
    if head is None:
        raise ConfigError(
            f"model: expected a causal language model, got {type(model).__name__}, which has no output embeddings; load it "
            "with AutoModelForCausalLM"
        )
    name = model.name_or_path or f"{IN_MEMORY}{type(model).__name__}"
    if tokenizer is None and not model.name_or_path:
        raise ConfigError(
            f"tokenizer: expected one, got None: {type(model).__name__} was not loaded from a name whose tokenizer could be "
            "taken; give tokenizer="
        )
    loaded = load_tokenizer(name) if tokenizer is None else _tokenizer(tokenizer, options)
    rows = len(cast(torch.Tensor, model.get_input_embeddings().weight))
    if len(loaded) > rows:
        raise ConfigError(
            f"tokenizer: it has {len(loaded)} tokens, and {type(model).__name__} has embeddings for {rows}; give the model's "
            "own tokenizer, or call model.resize_token_embeddings(len(tokenizer))"
        )
    return GivenModel(name, loaded, model, dtype)


def as_model(value: Any, where: str) -> Any:
    """Return a name or model; a path as a text.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, nn.Module) and not isinstance(value, PreTrainedModel):
        raise ConfigError(
            f"{where}: expected a name or a transformers.PreTrainedModel, got {shown(value)}; of a wrapped model give what is "
            "inside (of peft's: model.merge_and_unload(), or the base model and adapter=LoRA())"
        )
    return accepted(os.fspath(value) if isinstance(value, os.PathLike) else value, str | PreTrainedModel, where)


def as_factory(value: Any, where: str) -> Any:
    """Return a function that builds an optimizer or a schedule, or None.

    Raises:
        ConfigError: it is already built, on other parameters, or something else.
    """
    if isinstance(value, Optimizer | LRScheduler | ReduceLROnPlateau):
        argument = "parameters" if isinstance(value, Optimizer) else "optimizer"
        name = type(value).__name__
        raise ConfigError(
            f"{where}: expected a function that builds one, got {shown(value)}; give lambda {argument}: {name}({argument}, ...)"
        )
    return accepted(value, Callable[..., Any] | None if where.endswith("lr_scheduler") else Callable[..., Any], where)


def tokenizer_name(tokenizer: str | PreTrainedTokenizerBase | None) -> str | None:
    """Return the folder or hub name, if there is one."""
    if tokenizer is None or isinstance(tokenizer, str):
        return tokenizer
    return tokenizer.name_or_path or None


def _tokenizer(tokenizer: str | PreTrainedTokenizerBase, options: HubOptions) -> PreTrainedTokenizerBase:
    """Return the tokenizer; the revision is the model's, and no concern of a tokenizer from elsewhere."""
    if isinstance(tokenizer, str):
        return load_tokenizer(tokenizer, replace(options, revision=None))
    return check_tokenizer(tokenizer, tokenizer.name_or_path or type(tokenizer).__name__)
