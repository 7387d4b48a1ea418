"""Forms in which a policy's weights go to vLLM: all of them each time, or an adapter on weights that were sent once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Protocol, get_args

from torch import Tensor

from lit_tpgrpo.engines.base import AdaptedPolicy, Policy
from lit_tpgrpo.errors import ConfigError

ADAPTER = "policy"
"""Name of the policy's adapter in vLLM; requests name it as their model."""
ADAPTER_ID = 1
FormName = Literal["separate", "merged"]


@dataclass(frozen=True)
class WeightUpdate:
    """What an engine gets to have the policy's current weights.

    Attributes:
        key: updates of one key have the same names, dtypes and shapes.
        tensors: yields the tensors. Collective if the policy is sharded.
        base: fingerprint of the weights beneath an adapter that the engine has afterwards; "" if it has others.
        rank: of the adapter; 0 if the engine samples without one.
    """

    key: str
    tensors: Callable[[], Iterable[tuple[str, Tensor]]]
    base: str = ""
    rank: int = 0


class WeightForm(Protocol):
    """Interface of a form."""

    def update(self, policy: Policy, held: str) -> WeightUpdate:
        """Return what to send.

        Args:
            policy: whose weights they are.
            held: ``base`` of the engine's last complete update; "" if its weights are unknown.
        """
        ...


class MergedWeights:
    """All weights, adapters merged into them in float32, each time."""

    def update(self, policy: Policy, held: str) -> WeightUpdate:
        return WeightUpdate("all", policy.named_tensors)


class SeparateAdapter:
    """The weights beneath an adapter once, the adapter each time; all weights of a policy that has none."""

    def update(self, policy: Policy, held: str) -> WeightUpdate:
        weights = policy.adapter_weights() if isinstance(policy, AdaptedPolicy) else None
        if weights is None:
            return MergedWeights().update(policy, held)
        if weights.base and weights.base == held:
            return WeightUpdate("adapter", weights.tensors, held, weights.rank)

        def both() -> Iterator[tuple[str, Tensor]]:
            return chain(weights.base_tensors(), weights.tensors())

        return WeightUpdate("base and adapter", both, weights.base, weights.rank)


def weight_form(name: FormName) -> WeightForm:
    """Return the form of a name."""
    forms: dict[FormName, WeightForm] = {"separate": SeparateAdapter(), "merged": MergedWeights()}
    return forms[name]


def max_lora_rank(rank: int) -> int:
    """Return the smallest of vLLM's maximum ranks that an adapter of ``rank`` fits.

    Raises:
        ConfigError: there is none.
    """
    from vllm.config.lora import MaxLoRARanks  # pyright: ignore[reportMissingImports]

    ranks = sorted(get_args(MaxLoRARanks))
    if rank > ranks[-1]:
        raise ConfigError(
            f"vLLM takes adapters of a rank of at most {ranks[-1]}, and the policy's is {rank}; set the engine's adapter to "
            "merged, or a lower rank"
        )
    return next(r for r in ranks if r >= rank)
