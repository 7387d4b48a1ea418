"""How a group's rewards become advantages: the baseline that is subtracted and what the rest is divided by.

All have the form (p - mean(p)) / d(R) for any part p of the rewards R, so that the advantages of the parts add up to that of
the whole. If all rewards are equal, every advantage is exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lit_tpgrpo.credit.merging import check_standardisation
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.advantages import standardise_part


@runtime_checkable
class Baseline(Protocol):
    """Interface of a baseline: what a reward is compared with, and what the difference is divided by."""

    def advantages(self, part: Tensor, rewards: Tensor) -> Tensor:
        """Return the advantages that a part of a group's rewards gives, (G,) float64.

        Args:
            part: (G,) float64, a summand of each reward; the rewards themselves for the whole advantage.
            rewards: (G,) float64, at least two.
        """
        ...


@dataclass(frozen=True)
class StandardisedBaseline:
    """GRPO (arXiv 2402.03300): (r - mean(r)) / (std(r) + eps).

    Args:
        ddof: ddof of the standard deviation.
        eps: added to it.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """

    ddof: int = 1
    eps: float = 1e-6

    def __post_init__(self) -> None:
        check_standardisation(self.ddof, self.eps)

    def advantages(self, part: Tensor, rewards: Tensor) -> Tensor:
        return standardise_part(part, rewards, self.ddof, self.eps)


@dataclass(frozen=True)
class MeanBaseline:
    """Dr.GRPO (arXiv 2503.20783): r - mean(r), without a standard deviation.

    >>> MeanBaseline().advantages(*[torch.tensor([1.0, 0.0, 0.0, 0.0])] * 2)
    tensor([ 0.7500, -0.2500, -0.2500, -0.2500])
    """

    def advantages(self, part: Tensor, rewards: Tensor) -> Tensor:
        return _centred(part, rewards)


@dataclass(frozen=True)
class LeaveOneOutBaseline:
    """RLOO (arXiv 2402.14740): r minus the mean of the other solutions' r, which is n / (n - 1) * (r - mean(r)).

    >>> LeaveOneOutBaseline().advantages(*[torch.tensor([1.0, 0.0, 0.0])] * 2)
    tensor([ 1.0000, -0.5000, -0.5000])
    """

    def advantages(self, part: Tensor, rewards: Tensor) -> Tensor:
        n = len(rewards)
        return n / (n - 1) * _centred(part, rewards)


@dataclass(frozen=True)
class SuccessRateBaseline:
    """MaxRL (arXiv 2602.02710): (r - mean(r)) / mean(r) for r = 1 (success) and 0, a mean that is the success rate.

    Written as (r - mean(r)) / (mean(r) - min(r)), which is the same for r = 1 and 0 and also for +1 and -1. The authors' code
    (tajwarfahim/maxrl@7db6bb9, ``p_normalization``) adds 1e-6 to the divisor.

    >>> SuccessRateBaseline().advantages(*[torch.tensor([1.0, 0.0, 0.0, 0.0])] * 2)
    tensor([ 3., -1., -1., -1.])

    Raises:
        ConfigError: from ``advantages``: a group has rewards of more than two values.
    """

    def advantages(self, part: Tensor, rewards: Tensor) -> Tensor:
        values = rewards.unique()
        if len(values) > 2:
            raise ConfigError(
                f"SuccessRateBaseline is defined for two rewards, success and failure, but a group has {len(values)} "
                "different ones; leave out the terms of data.rewards beside the outcome, or use another baseline"
            )
        if len(values) < 2:
            return torch.zeros_like(part)
        return _centred(part, rewards) / (rewards.mean() - rewards.min())


def _centred(part: Tensor, rewards: Tensor) -> Tensor:
    # The mean of equal floats may be rounded.
    if bool((part == part[0]).all()) or bool((rewards == rewards[0]).all()):
        return torch.zeros_like(part)
    return part - part.mean()
