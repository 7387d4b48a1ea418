"""Base class of the credit assignments that start from each solution's reward, standardised within its group."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_credit import GroupCredit
from lit_tpgrpo.credit.merging import check_standardisation
from lit_tpgrpo.functional.advantages import standardise_group, standardise_part
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome


@dataclass(frozen=True, slots=True)
class RewardAdvantage:
    """The standardised reward of a solution: ``total``, and ``outcome_part``, what the outcome's term adds to it.

    With o the outcome's part of the reward R, ``outcome_part`` is (o - mean(o)) / (std(R) + eps): not positive for an
    incorrect solution. Where the outcome is the only term, the two are equal, bit for bit; without an outcome term it is 0.
    """

    total: float
    outcome_part: float


def reward_advantages(rewarded: Sequence[JudgedSolution], ddof: int, eps: float) -> list[RewardAdvantage]:
    """Standardise the rewards of a group's rewarded solutions (paper, Setting).

    A reward is +1 (CORRECT) or -1 (INCORRECT, UNVERIFIABLE), or the weighted sum of ``data.rewards``.

    Args:
        rewarded: at least two solutions that have a reward: those that are decided, and to which a term applies.
        ddof: as for ``standardise_group``.
        eps: likewise.
    """
    rewards = [_reward(judged) for judged in rewarded]
    totals = torch.tensor([total for total, _ in rewards], dtype=torch.float64)
    parts = torch.tensor([part for _, part in rewards], dtype=torch.float64)
    standardised = standardise_group(totals, ddof, eps), standardise_part(parts, totals, ddof, eps)
    return [RewardAdvantage(*pair) for pair in zip(*(s.tolist() for s in standardised), strict=True)]


def _reward(judged: JudgedSolution) -> tuple[float, float]:
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
    """Base class that standardises the rewards of a group and then credits each solution.

    Args:
        ddof: ddof of the group's standard deviation; 1 as in the usual GRPO trainers, the paper does not say.
        eps: added to the standard deviation.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """

    def __init__(self, ddof: int = 1, eps: float = 1e-6) -> None:
        check_standardisation(ddof, eps)
        self.ddof = ddof
        self.eps = eps

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Standardise the rewards and credit each solution."""
        rewards = reward_advantages(rewarded, self.ddof, self.eps)
        return [self.credit(group, judged, reward) for judged, reward in zip(rewarded, rewards, strict=True)]

    @abstractmethod
    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Compute the credit of one solution from its standardised reward."""
