"""Credit of Q-RM (arXiv 2505.23363): the token rewards of another model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lit_tpgrpo.credit.evidence_access import token_rewards_of
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_nothing
from lit_tpgrpo.evidence import TokenRewards
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


class QRMCredit(GroupCredit):
    """Credit each token with its reward; neither outcomes nor labels are used, and nothing is summed over tokens.

    With Z_it the reward of token t of solution i:

        A_it = Z_it

    The source normalises over all response tokens of the rollout buffer, which is a batch stage: its code
    (homzer/Q-RM@74fd338b, ``ppo/buffer.py``) divides by the population deviation and leaves the mean, ``data.batch_stage``
    ``StdScaling``; its text says zero mean and unit variance, ``Whitening`` with ddof 0. This is its REINFORCE form; its PPO
    subtracts a critic's value, and its penalty of 0.01 abs(log-prob difference) a token is not here (``TokenRewardKL`` goes
    around this class).

    A solution without token rewards gets no credit and is in no batch statistics. Needs ``TokenRewards``:
    ``ChosenTokenLogits``.
    """

    needs: ClassVar = (TokenRewards,)

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Credit each solution's tokens with their rewards."""
        warn_of_unused_rewards(self, rewarded, "token rewards")
        return list(map(self._credit, rewarded))

    def _credit(self, judged: JudgedSolution) -> CreditedSolution:
        rewards = token_rewards_of(judged)
        if rewards is None:
            return credit_nothing(judged)
        thoughts = merge_thoughts(judged.verdict)
        return CreditedSolution(judged, 0.0, thoughts, (0.0,) * len(thoughts), rewards.float())
