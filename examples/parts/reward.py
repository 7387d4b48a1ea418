"""A reward term: ``--data.rewards.brief.term examples.parts.reward.Brief --data.rewards.brief.weight 0.1``."""

from lit_tpgrpo import Outcome, RewardCase


class Brief:
    """Reward of correct solutions that falls with the length of the answer block; incorrect ones are skipped.

    Args:
        longest: characters of the answer block from which on the reward is 0.
    """

    def __init__(self, longest: int = 200) -> None:
        self.longest = longest

    def __call__(self, case: RewardCase) -> float | None:
        """Return a number, or None to skip the solution. An ``async def`` may wait for a server."""
        if case.outcome is not Outcome.CORRECT or case.answer_block is None:
            return None
        return max(0.0, 1.0 - len(case.answer_block) / self.longest)
