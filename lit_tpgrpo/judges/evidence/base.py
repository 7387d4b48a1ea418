"""The evidence interface: judged solutions in, one record of evidence for each out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lit_tpgrpo.engines.base import Engine, SamplingParams
from lit_tpgrpo.evidence import Evidence
from lit_tpgrpo.records import JudgedSolution, Problem
from lit_tpgrpo.token_arrays import TokenInts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EvidenceCase:
    """A judged solution whose outcome is decided. Evidence on steps is on those of its verdict.

    ``group_index`` tells the groups of a round apart, which may have the same problem.
    """

    problem: Problem
    judged: JudgedSolution
    group_index: int = 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a continuation begins with: the prompt and the first ``length`` tokens of a solution's completion.

    ``key`` identifies it in the store: equal prefixes have equal keys.
    """

    key: str
    case: EvidenceCase
    length: int


@dataclass(frozen=True, slots=True)
class Continued:
    """The continuations of one prefix: outcomes (1 correct, 0 not; without UNDECIDED ones) and tokens sampled for them."""

    key: str
    outcomes: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A prefix of a solution after which the policy is made to answer: ``lead_in`` opens the answer, ``gold`` is the right one.

    Both are token ids. ``key`` identifies the probe in the store.
    """

    key: str
    case: EvidenceCase
    length: int
    lead_in: tuple[int, ...]
    gold: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of a probe: accuracy and confidence, both in [0, 1], and tokens sampled for it."""

    key: str
    accuracy: float
    confidence: float
    tokens: int


@dataclass(frozen=True, slots=True)
class OutcomeExample:
    """What a provider learns from: a solution's tokens, and whether it is correct."""

    prompt_ids: TokenInts
    completion_ids: TokenInts
    correct: bool


class EvidenceTools(Protocol):
    """What a round lends to its providers."""

    @property
    def sampling(self) -> SamplingParams:
        """How the round's solutions were sampled."""
        ...

    @property
    def current(self) -> bool:
        """Whether the policy still has the weights that sampled the round."""
        ...

    def key(self, *content: object) -> str:
        """Return the name under which a value is stored, from plain values: all that the value depends on.

        The weights that sampled the round are part of it by themselves.
        """
        ...

    def stored(self, keys: Collection[str]) -> dict[str, Any]:
        """Return what the store has of these values, those of other ranks and of an interrupted run included."""
        ...

    def store(self, values: Mapping[str, Any]) -> None:
        """Append values (plain, as JSON holds them): after a crash all of them are there, or none."""
        ...

    def continue_from(
        self, prefixes: Sequence[Prefix], n: int, params: SamplingParams
    ) -> Iterator[tuple[Continued, ...]]:
        """Sample n continuations of each prefix with the policy, and verify them; yield those of one engine batch at once.

        A continuation that the token limit cut off counts as not correct.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the policy's tokens of a text, without special ones that the text does not have."""
        ...

    def probe(self, probes: Sequence[Probe], n: int, params: SamplingParams) -> Iterator[tuple[Probed, ...]]:
        """Sample n answers after each prefix and its lead-in, score these and the gold answer; yield those of a batch at once.

        Needs a ``ScoringEngine``.
        """
        ...


@runtime_checkable
class EvidenceProvider(Protocol):
    """Interface of a provider. An instance has settings, which are part of the keys of what it stores, and counters.

    A class that inherits from this one gets ``metrics`` as it is here. One that never calls ``continue_from`` may say so by a
    class attribute ``uses_engine = False``: the engine then gets no weights for it. One that has ``close()`` is closed with the
    run, and one that has ``check_writable()``, ``check_tokenizer`` or ``check_engine`` is asked before anything is sampled.
    """

    @property
    def gives(self) -> type[Evidence]:
        """The kind of evidence, by which methods find it."""
        ...

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        """Return the evidence on each case, in their order; None where there is none, whose credit then lacks that part.

        Values that cost something are to be stored as they are computed (``tools.store``) and not computed again.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return counters since the last call, logged under ``evidence/`` as sums over all ranks, and reset them."""
        return {}


@runtime_checkable
class LearningProvider(Protocol):
    """A provider with a model of its own that learns the outcomes of training rounds; its state is in checkpoints."""

    def learn(self, round_index: int, examples: Sequence[OutcomeExample]) -> None:
        """Learn from the decided solutions of a round, before ``provide``. Called on every rank with those of all ranks.

        The examples are in the order of groups and samples. A resumed run calls it again with a round that the restored state
        may have learnt already. Without collectives; on an exception the state is that of before.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state, the same on all ranks: tensors and plain values. Rank 0 alone is asked: without collectives."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        ...


@runtime_checkable
class ChecksTokenizer(Protocol):
    """A provider that depends on the policy's tokens."""

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise ``ConfigError`` if it cannot work with this tokenizer."""
        ...


@runtime_checkable
class ChecksEngine(Protocol):
    """A provider that needs more of the engine than ``Engine`` has."""

    def check_engine(self, engine: Engine) -> None:
        """Raise ``ConfigError`` if it cannot work with this engine."""
        ...
