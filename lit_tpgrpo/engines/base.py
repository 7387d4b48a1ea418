"""The sampling engine interface: token-id prompts in, token-id completions with sampling log-probs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import StopReason

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@checked_arguments()
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. ``temperature`` 0 is greedy (log-probs are then those at temperature 1).

    Log-probs are of softmax(logits / temperature) before ``top_p``, ``top_k`` and ``json_schema`` cut it; those of a
    ``mismatched`` engine (see ``Engine``) may be of what is left. ``json_schema``
    (JSON text) leaves only tokens with which the text can still become an instance of the schema; ``stop_ids`` end a
    completion besides EOS. A judge needs both, a policy neither.

    Raises:
        ConfigError: a value is out of its range.
    """

    max_new_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    json_schema: str | None = None
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"sampling: max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:  # written so that nan is refused as well
            raise ConfigError(f"sampling: temperature must be 0 (greedy) or positive, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling: top_p must lie in (0, 1], where 1 cuts nothing, got {self.top_p}")
        if self.top_k < 0:
            raise ConfigError(f"sampling: top_k must be 0 (off) or positive, got {self.top_k}")

    @property
    def cuts_distribution(self) -> bool:
        """Whether ``top_p`` or ``top_k`` removes tokens from what is sampled from."""
        return self.top_p < 1 or self.top_k > 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation: ids (with EOS where ``stop`` is EOS) and the log-prob of each, same length."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: StopReason


@runtime_checkable
class Policy(Protocol):
    """What an engine may ask of the module that trains the policy."""

    @property
    def policy_model(self) -> PreTrainedModel: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def policy_version(self) -> int:
        """Number of optimizer steps taken."""
        ...

    def named_tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Full (unsharded) weights, name by name."""
        ...


@runtime_checkable
class Sharded(Protocol):
    """A policy whose weights may lie in shards."""

    def unsharded(self) -> AbstractContextManager[None]:
        """Meanwhile every process has the whole weights and may call the model on its own. Entered by all together."""
        ...


@runtime_checkable
class Batching(Protocol):
    """An engine that samples several prompts in one batch, whose rounding depends on all of them."""

    def prompts_at_once(self, n: int) -> int:
        """Prompts of n samples each in a batch. Batches are made in the order of prompts, longest first, and yielded so."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """An engine that may wait long for others, and asks meanwhile whether it should."""

    while_waiting: Callable[[], None]
    """Called about twice a second; what it raises ends the wait."""


@runtime_checkable
class Engine(Protocol):
    """Samples from a policy.

    ``sample`` yields ``(prompt index, completions)`` per prompt as it finishes, n completions each, every index once.
    ``seeds`` holds one seed for each prompt; sample k of a prompt depends on its own seed and k alone. The same prompt, seed,
    params and weights give the same completions, up to rounding, whatever else is sampled beside it: so what is left of a
    round after a crash, or is dealt to another number of processes, is sampled as it would have been.

    An engine that computes log-probs otherwise than the trainer (kernels or a precision of its own) says so by an attribute
    ``mismatched = True``: its samples are then corrected by importance weights unless the user says otherwise.
    """

    def load_weights(self, policy: Policy) -> None:
        """Make the next samples come from the policy's current weights."""
        ...

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]: ...

    def sleep(self) -> None:
        """Free what training needs (a no-op where nothing is held)."""
        ...

    def wake(self) -> None: ...

    def close(self) -> None: ...
