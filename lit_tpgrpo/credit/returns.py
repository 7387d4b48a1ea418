"""Credit of REINFORCE++ (arXiv 2501.03262) before its batch normalisation: the discounted return of each token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_credit import GroupCredit
from lit_tpgrpo.credit.group_relative import reward_of
from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_outcome
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class ReturnCredit(GroupCredit):
    """The reward of a solution, discounted to each token, without a baseline.

    With R_i the reward of solution i and L_i its tokens:

        A_it = gamma^(L_i - 1 - t) * R_i

    REINFORCE++ whitens this over all tokens of the batch: ``data.batch_stage`` ``Whitening``, which is then the only baseline.
    Its second form subtracts the group's mean before, without a discount: ``OutcomeCredit`` with ``MeanBaseline`` and the same
    stage. The source has the KL penalty in the reward: ``TokenRewardKL`` around this class.

    A solution without a reward gets no credit, and neither does one that is alone in having a reward, as in all credit
    assignments of this package; the source has no such rule.

    Args:
        gamma: discount per token, 1 in the source.

    Raises:
        ConfigError: gamma is not in (0, 1].
    """

    def __init__(self, gamma: float = 1.0) -> None:
        if not 0 < gamma <= 1:
            raise ConfigError(f"gamma must be in (0, 1], got {gamma}")
        self.gamma = gamma

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Discount each solution's reward."""
        return [self._credit(judged) for judged in rewarded]

    def _credit(self, judged: JudgedSolution) -> CreditedSolution:
        reward, _ = reward_of(judged)
        credited = credit_outcome(judged, reward, merge_thoughts(judged.verdict))
        if self.gamma == 1:
            return credited
        ahead = torch.arange(len(credited.advantages) - 1, -1, -1, dtype=torch.float64)
        return CreditedSolution(
            judged, reward, credited.thoughts, credited.process_rewards, (reward * self.gamma**ahead).float()
        )
