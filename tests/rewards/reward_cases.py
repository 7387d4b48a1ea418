"""Hand-made verified solutions."""

from __future__ import annotations

from lit_tpgrpo.records import Outcome, Problem, Solution, StopReason
from lit_tpgrpo.rewards.base import RewardCase, VerifiedSolution
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.text.steps import segment_steps

PROBLEM = Problem("p", "1 + 1?", "2")


def verified(
    ids,
    outcome=Outcome.CORRECT,
    text="<think>\n1 + 1 = 2\n</think>\n\\boxed{2}",
    answer: str | None = "2",
    sample=0,
    stop=StopReason.EOS,
):
    """A verified solution of the given token ids; all of its text belongs to the first token."""
    starts = (0,) + (len(text),) * (len(ids) - 1)
    solution = Solution("p", sample, (1,), tuple(ids), (-1.0,) * len(ids), stop, 0, text, starts)
    division = ThinkTags().divide(text)
    return VerifiedSolution(
        PROBLEM, solution, outcome, answer, segment_steps(text, starts, len(ids), division), division
    )


def cases(*group: VerifiedSolution) -> list[RewardCase]:
    return [RewardCase(s.problem, s.solution, s.outcome, s.answer, s.steps, s.division, group) for s in group]


def case(ids=(5,), **settings) -> RewardCase:
    return cases(verified(ids, **settings))[0]
