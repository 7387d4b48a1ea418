"""The sampling engine interface: takes prompts as token ids, returns completions as token ids with sampling log-probs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.token_arrays import EqualByContent, Offsets, TokenFloats, TokenInts, token_floats, token_ints

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lit_tpgrpo.judges.base import Tally


@checked_arguments()
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. ``temperature`` 0 is greedy (log-probs are then those at temperature 1).

    Log-probs are of softmax(logits / temperature) before truncation by ``top_p``, ``top_k`` and ``json_schema``; those of
    a ``mismatched`` engine (see ``Engine``) may be of the truncated distribution. ``json_schema`` (JSON text) masks all
    tokens after which the text can no longer satisfy the schema; ``stop_ids`` end a completion, in addition to EOS.
    Judges need both, a policy neither.

    ``stop`` are strings that end a completion when its text holds one, special tokens counted as their texts. The completion
    ends with the token that completes the string, and keeps all its tokens and log-probs, which therefore remain comparable
    with the trainer's. Its ``StopReason`` is STOP_STRING.

    Raises:
        ConfigError: a value is out of its range.
    """

    max_new_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    json_schema: str | None = None
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"sampling: max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:  # written so that nan is refused as well
            raise ConfigError(f"sampling: temperature must be 0 (greedy) or positive, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling: top_p must lie in (0, 1], where 1 is off, got {self.top_p}")
        if self.top_k < 0:
            raise ConfigError(f"sampling: top_k must be 0 (off) or positive, got {self.top_k}")
        if not all(self.stop):
            raise ConfigError(
                "sampling: stop strings must not be empty, got one that is: it would end every completion"
            )

    @property
    def cuts_distribution(self) -> bool:
        """Whether ``top_p`` or ``top_k`` removes tokens from what is sampled from."""
        return self.top_p < 1 or self.top_k > 0


@dataclass(frozen=True, slots=True, eq=False)
class Completion(EqualByContent):
    """One sampled completion: token ids (including EOS if ``stop`` is EOS, or a stop string) and the log-prob of each.

    Both become read-only arrays, (T,) int32 and float32; any sequence of numbers may be given.

    Raises:
        ConfigError: ids are not whole numbers of 32 bits, or log-probs not numbers.
    """

    token_ids: TokenInts
    logprobs: TokenFloats
    stop: StopReason

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", token_ints(self.token_ids, "Completion.token_ids"))
        object.__setattr__(self, "logprobs", token_floats(self.logprobs, "Completion.logprobs"))


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-prob of each token of a given completion, and the entropy of the distribution that it was taken from, in nats."""

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]


@runtime_checkable
class ScoringEngine(Protocol):
    """An engine that also scores given completions with the weights that it samples from."""

    def score(self, prompts: Sequence[Offsets], completions: Sequence[Offsets]) -> list[TokenScores]:
        """Return the scores of each completion after its prompt, at temperature 1; the completion is forced, not sampled."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Interface of the policy that an engine samples from, implemented by the training module."""

    @property
    def policy_model(self) -> PreTrainedModel: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def policy_version(self) -> int:
        """Number of optimizer steps taken."""
        ...

    def named_tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Yield the full (unsharded) weights as (name, tensor), and the buffers that files hold beside them."""
        ...


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """Weights of a policy that trains low-rank adapters, W + B A, with W and the adapters apart.

    Attributes:
        rank: rows of each A, columns of each B.
        base: fingerprint of all W, which never change: an engine that has them needs the adapters alone.
        base_tensors: yields the W under the names of ``Policy.named_tensors``. Collective if the policy is sharded.
        tensors: yields ``LAYER.lora_A.weight`` (rank, in) and ``LAYER.lora_B.weight`` (out, rank) of each adapted layer, the
            adapter's scale within B. Collective if the policy is sharded.
        sharded: whether the two above are collective.
    """

    rank: int
    base: str
    base_tensors: Callable[[], Iterable[tuple[str, Tensor]]]
    tensors: Callable[[], Iterable[tuple[str, Tensor]]]
    sharded: bool = False

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """Yield W + B A of each adapted layer, in float32, and the other weights as they are. Collective as its parts are."""
        adapters = dict(self.tensors())
        for name, weight in self.base_tensors():
            layer = name.removesuffix(".weight")
            a, b = (adapters.get(f"{layer}.lora_{part}.weight") for part in "AB")
            yield name, weight if a is None or b is None else weight.float() + b @ a


@runtime_checkable
class AdaptedPolicy(Protocol):
    """A policy that may train adapters on weights that do not change."""

    def adapter_weights(self) -> AdapterWeights | None:
        """Return the adapters and the weights beneath; None if all weights train."""
        ...


@runtime_checkable
class Sharded(Protocol):
    """A policy whose weights may be sharded."""

    def unsharded(self) -> AbstractContextManager[None]:
        """Return a context in which every rank holds the full weights and may call the model independently. Collective."""
        ...


@runtime_checkable
class Batching(Protocol):
    """An engine that samples several prompts in one batch, so that rounding depends on the composition of batches."""

    def prompts_at_once(self, n: int) -> int:
        """Return the number of prompts per batch, with n samples each. Batches are yielded in order, longest prompts first."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """An engine that may wait a long time (for servers), and whose wait the caller can end."""

    while_waiting: Callable[[], None]
    """Called about twice a second during a wait; an exception from it ends the wait."""


@runtime_checkable
class CountingEngine(Protocol):
    """An engine that samples more than it returns, and counts it."""

    def tally(self) -> Tally:
        """Return counters since the last call and reset them; logged over all ranks as ``eval/``, ``test/`` or ``predict/``."""
        ...


@runtime_checkable
class TotallingEngine(Protocol):
    """A ``CountingEngine`` that also says what it counted in all, so that stored samples can say what they cost."""

    def totals(self) -> Mapping[str, float]:
        """Return the counters since the engine was built, those that may be added up; nothing is reset."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Interface of an engine that samples from a policy.

    ``sample`` yields ``(prompt index, completions)`` per prompt as it finishes, n completions each, every index once.
    ``seeds`` holds one seed for each prompt; sample k of a prompt depends only on the prompt's seed and k. The same
    prompt, seed, params and weights give the same completions, up to rounding, whatever else is in the batch. So the rest
    of a round is sampled identically after a crash or with another number of processes.

    An engine that computes log-probs differently from the trainer (other kernels or precision) has the attribute
    ``mismatched = True``: its samples are then corrected by importance weights, unless the user disables it. One whose
    samples depend on settings of its own has them, plain values, in the attribute ``settings``: stored samples are reused only
    where they are equal.
    One that holds its own copy of the weights, on other devices than the trainer's, has the attribute ``concurrent = True``:
    ``sample`` may be called in another thread while the trainer trains, until it is done there is no other call, and only
    ``load_weights`` copies weights or is collective.
    A class that inherits from this one gets ``sleep``, ``wake`` and ``close``, which do nothing.
    """

    def load_weights(self, policy: Policy) -> None:
        """Make the next samples come from the policy's current weights."""
        ...

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]: ...

    def sleep(self) -> None:
        """Free memory for training (a no-op for engines that hold none)."""

    def wake(self) -> None:
        """Allocate memory again before sampling."""

    def close(self) -> None:
        """Free all resources at the end of the run."""
