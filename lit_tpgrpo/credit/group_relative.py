"""Base class of the credit assignments that start from each solution's reward, relative to its group."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.baselines import Baseline, StandardisedBaseline
from lit_tpgrpo.credit.group_credit import GroupCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


@dataclass(frozen=True, slots=True)
class RewardAdvantage:
    """The reward of a solution relative to its group: ``total``, and ``outcome_part``, what the outcome's term adds to it.

    With o the outcome's part of the reward R, and the rewards standardised, ``outcome_part`` is
    (o - mean(o)) / (std(R) + eps): not positive for an incorrect solution. Where the outcome is the only term, the two are
    equal, bit for bit; without an outcome term it is 0.
    """

    total: float
    outcome_part: float


def reward_advantages(rewarded: Sequence[JudgedSolution], baseline: Baseline) -> list[RewardAdvantage]:
    """Compare the rewards of a group's rewarded solutions (paper, Setting, which standardises them).

    A reward is +1 (CORRECT) or -1 (INCORRECT, UNVERIFIABLE), or the weighted sum of ``data.rewards``.

    Args:
        rewarded: at least two solutions that have a reward: those that are decided, and to which a term applies.
        baseline: what they are compared with.
    """
    rewards = [reward_of(judged) for judged in rewarded]
    totals = torch.tensor([total for total, _ in rewards], dtype=torch.float64)
    parts = torch.tensor([part for _, part in rewards], dtype=torch.float64)
    advantages = baseline.advantages(totals, totals).tolist(), baseline.advantages(parts, totals).tolist()
    return [RewardAdvantage(total, part) for total, part in zip(*advantages, strict=True)]


def reward_of(judged: JudgedSolution) -> tuple[float, float]:
    """Return the reward of a rewarded solution and the outcome's part of it."""
    if judged.reward is None:
        reward = 1.0 if judged.outcome is Outcome.CORRECT else -1.0
        return reward, reward
    assert judged.reward.total is not None
    return judged.reward.total, judged.reward.outcome


def process_magnitude(judged: JudgedSolution, reward: RewardAdvantage, r_c: float) -> float:
    """Return m, the size of a solution's process rewards: r_c if it is correct, else the outcome's part of its advantage.

    The paper (Stage II), which has the outcome reward alone, takes the standardised reward of an incorrect solution: the
    same number. With other terms that would have the wrong sign where an incorrect solution is better than its group by
    those terms, and would take their share off the thoughts that the answer does not adopt.

    Args:
        judged: a solution that gets credit.
        reward: its standardised reward.
        r_c: the size in a correct solution.
    """
    return r_c if judged.outcome is Outcome.CORRECT else reward.outcome_part


@checked_arguments()
class GroupRelativeCredit(GroupCredit):
    """Base class that compares the rewards of a group and then credits each solution.

    Args:
        ddof: ddof of the group's standard deviation; the paper's is unpublished, 1 is that of the usual GRPO trainers.
        eps: added to the standard deviation; unpublished.
        baseline: what a reward is compared with, in place of standardisation: ``MeanBaseline`` (Dr.GRPO),
            ``LeaveOneOutBaseline`` (RLOO), ``SuccessRateBaseline`` (MaxRL), or a ``Baseline`` of yours. None standardises
            with ddof and eps: ``StandardisedBaseline``.

    Raises:
        ConfigError: ddof is not 0 or 1, eps is negative, or a baseline is given besides them.
    """

    def __init__(self, ddof: int = 1, eps: float = 1e-6, baseline: Baseline | None = None) -> None:
        standardised = StandardisedBaseline(ddof, eps)
        if baseline is not None and standardised != StandardisedBaseline():
            raise ConfigError(
                f"{type(self).__name__}: ddof and eps are settings of the default baseline, StandardisedBaseline, and a "
                "baseline is given; leave them out, or give them to the baseline"
            )
        self.baseline: Baseline = standardised if baseline is None else baseline

    @property
    def settings(self) -> dict[str, Any]:
        """What loggers show of this credit assignment: its plain attributes, and the baseline with its own."""
        plain = {
            k: v for k, v in vars(self).items() if isinstance(v, (bool, int, float, str)) and not k.startswith("_")
        }
        return plain | {"baseline": type(self.baseline).__name__} | getattr(self.baseline, "__dict__", {})

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Compare the rewards and credit each solution."""
        rewards = reward_advantages(rewarded, self.baseline)
        return [self.credit(group, judged, reward) for judged, reward in zip(rewarded, rewards, strict=True)]

    @abstractmethod
    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Compute the credit of one solution from its reward relative to the group."""
