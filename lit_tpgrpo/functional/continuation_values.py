"""Value of a prefix of a solution, estimated from the outcomes of continuations that were sampled from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class ValueEstimate(Protocol):
    """Interface of an estimate: outcomes (1 correct, 0 not; at least one) in, a value in [0, 1] out."""

    def __call__(self, outcomes: Sequence[float]) -> float: ...


@dataclass(frozen=True)
class SoftValue:
    """Math-Shepherd's soft value (arXiv 2312.08935, second-hand): the fraction of correct continuations, mean_k r_k.

    >>> SoftValue()([1, 1, 1, 0, 0, 0, 0, 0])
    0.375
    """

    def __call__(self, outcomes: Sequence[float]) -> float:
        return math.fsum(outcomes) / len(outcomes)


@dataclass(frozen=True)
class HardValue:
    """Math-Shepherd's hard value (arXiv 2312.08935, second-hand): 1 if any continuation is correct, max_k r_k.

    >>> HardValue()([1, 1, 1, 0, 0, 0, 0, 0])
    1.0
    """

    def __call__(self, outcomes: Sequence[float]) -> float:
        return float(max(outcomes))


@dataclass(frozen=True)
class EntropyValue:
    """ER-PRM's value (arXiv 2412.11006): (1 / eta) log mean_k exp(eta r_k), from the mean (eta to 0) to the maximum.

    Computed as a log-sum-exp, which a large eta cannot overflow. The code (hanningzhang/ER-PRM@5a996d45) rounds to three
    decimals.

    Args:
        eta: positive; 1 in the code.

    Raises:
        ValueError: eta is not positive and finite.

    >>> round(EntropyValue(1.0)([1, 1, 1, 0, 0, 0, 0, 0]), 4)
    0.4973
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.eta < math.inf:
            raise ValueError(f"eta must be positive and finite, got {self.eta}")

    def __call__(self, outcomes: Sequence[float]) -> float:
        top = max(outcomes)
        mean = math.fsum(math.exp(self.eta * (r - top)) for r in outcomes) / len(outcomes)
        return top + math.log(mean) / self.eta
