"""The format reward: a solution that ends by itself, with a closed think block and one answer after it."""

from __future__ import annotations

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.rewards.base import RewardCase
from lit_tpgrpo.text.boxes import find_boxes


@checked_arguments()
class FormatReward:
    """Format reward, 1 or 0, whatever the outcome: of DeepSeek-R1 (arXiv 2501.12948, section 2.2.2), here with one answer.

    1 if all of these hold, 0 if one does not:

    - the solution was not cut off by the token limit;
    - it has an answer block, by the run's solution format: its think block is closed;
    - the verifier read an answer from it;
    - the answer block gives one answer: if it has boxes, their contents are equal. (A second box in the think block is no
      fault.)

    Args:
        satisfied: reward if the format is kept.
        violated: reward if it is not.
    """

    def __init__(self, satisfied: float = 1.0, violated: float = 0.0) -> None:
        self.satisfied = satisfied
        self.violated = violated

    def __call__(self, case: RewardCase) -> float:
        block = case.answer_block
        if block is None or case.answer is None or case.solution.stop is StopReason.LENGTH:
            return self.violated
        return self.satisfied if len({box.content for box in find_boxes(block)}) <= 1 else self.violated
