"""Fingerprints of weights, settings and functions: stored rounds are reused only where they are equal."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLED = 256
"""Elements of each tensor that are hashed; an optimizer step changes nearly all elements."""


def fingerprint(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hash of evenly spaced elements of each tensor, equal for equal weights on any device and in any process."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in named_tensors:
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLED)]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        # A copy: ``numpy`` fixes the size of a storage, and FSDP has to free those of gathered weights.
        digest.update(sample.to("cpu", torch.float32, copy=True).numpy().tobytes())
    return digest.hexdigest()


def content_hash(content: Any, size: int = 8) -> str:
    """Return a hash, ``size`` bytes as hex digits, of plain values; anything else in them counts as its text.

    Arrays and their elements count as the numbers in them: the text of a long array leaves most of it out.
    """
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=_plain).encode(), digest_size=size).hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what a tokenizer makes of prompts and completions: vocabulary, chat template, ids of a short text."""
    vocabulary = _vocabulary_hash(tokenizer, len(tokenizer))
    return content_hash([vocabulary, tokenizer.chat_template, tokenizer("2 + 34 = 36.")["input_ids"]])


@functools.lru_cache(maxsize=4)
def _vocabulary_hash(tokenizer: PreTrainedTokenizerBase, size: int) -> str:
    """Return a hash of the vocabulary, computed once for each of its sizes: 0.1 s for 49,000 tokens, in every round."""
    return content_hash(sorted(tokenizer.get_vocab().items()))


def settings_of(component: Any) -> dict[str, Any]:
    """Return the class and settings of a component (a judge, a verifier, ...), as stored with a round.

    The settings are its attribute ``settings``, or else its public attributes that are bool, int, float or str. For a
    function it is ``callable_name``, so that another function, or the same one after an edit, differs.
    """
    if inspect.isroutine(component) or isinstance(component, functools.partial):
        return {"function": callable_name(component)}
    settings = getattr(component, "settings", None)
    if settings is None:
        public = {name: value for name, value in vars(component).items() if not name.startswith("_")}
        settings = {name: value for name, value in public.items() if isinstance(value, (bool, int, float, str))}
    return {"class": f"{type(component).__module__}.{type(component).__qualname__}"} | dict(settings)


def named_settings_of(component: Any) -> dict[str, Any]:
    """Return ``settings_of`` a component that has a name (a judge), and the name."""
    return {"name": component.name} | settings_of(component)


def callable_name(function: Callable[..., Any]) -> str:
    """Return the dotted name of a function or callable object and, of a function, a hash of its code.

    The hash tells lambdas, closures over other plain values and edited functions apart. Of a ``functools.partial`` it is
    that of the function with the arguments behind it.
    """
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f"{k}={v!r}" for k, v in sorted(function.keywords.items()))]
        return f"{callable_name(function.func)}({', '.join(given)})"
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    code = getattr(function, "__code__", None)
    if code is None:
        return name
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_plain(cell)]
    content = repr((*_code_content(code), *([cells] if cells else []))).encode()
    return f"{name}#{hashlib.blake2b(content, digest_size=4).hexdigest()}"


def _is_plain(cell: Any) -> bool:
    try:
        return isinstance(cell.cell_contents, bool | int | float | str | None)
    except ValueError:  # not assigned yet
        return False


def _code_content(code: CodeType) -> tuple[Any, ...]:
    """Byte code, names and plain constants, also of the functions inside; without file and line numbers."""
    plain = [c for c in code.co_consts if isinstance(c, bool | int | float | str | None)]
    inner = [_code_content(c) for c in code.co_consts if isinstance(c, CodeType)]
    return (code.co_code, code.co_names, plain, *inner)
