"""A credit function: ``--data.credit examples.parts.credit.LastThoughtCredit``."""

import torch

from lit_tpgrpo import CreditedSolution, GroupRelativeCredit, JudgedGroup, JudgedSolution, RewardAdvantage
from lit_tpgrpo.credit.merging import merge_thoughts


class LastThoughtCredit(GroupRelativeCredit):
    """Credit that gives the outcome advantage to the tokens of the last thought, and 0 to all other tokens.

    The base class standardises the outcome rewards within the group; its arguments ``ddof`` and ``eps`` are this class's too.
    """

    def credit(self, group: JudgedGroup, judged: JudgedSolution, reward: RewardAdvantage) -> CreditedSolution:
        """Credit one solution, whose standardised outcome reward is ``reward.total``."""
        thoughts = merge_thoughts(judged.verdict)
        advantages = torch.zeros(len(judged.solution.completion_ids))
        advantages[thoughts[-1].token_start : thoughts[-1].token_end] = reward.total
        return CreditedSolution(judged, reward.total, thoughts, (0.0,) * len(thoughts), advantages)
