"""One solution's credit, given its thoughts and how much a thought is worth."""

from __future__ import annotations

import torch

from lit_tpgrpo.credit.merging import agrees_with_answer, merge_thoughts, thought_lengths
from lit_tpgrpo.functional.advantages import closed_form_advantages, process_rewards, suffix_sum_advantages
from lit_tpgrpo.records import CreditedSolution, JudgedSolution, Outcome, Thought


def credit_outcome(judged: JudgedSolution, outcome: float, thoughts: tuple[Thought, ...]) -> CreditedSolution:
    """Every token gets the outcome advantage."""
    advantages = torch.full((len(judged.solution.completion_ids),), outcome, dtype=torch.float32)
    return CreditedSolution(judged, outcome, thoughts, (0.0,) * len(thoughts), advantages)


def credit_nothing(judged: JudgedSolution) -> CreditedSolution:
    """No token gets an advantage: the outcome is not known, or there is none to compare it with."""
    return credit_outcome(judged, 0.0, merge_thoughts(judged.verdict))


def credit_thoughts(
    judged: JudgedSolution, outcome: float, thoughts: tuple[Thought, ...], r_c: float
) -> CreditedSolution:
    """TP-GRPO's table for merged thoughts; an undecided or truncated solution gets its outcome alone."""
    sides = agrees_with_answer(judged, thoughts)
    if sides is None:
        return credit_outcome(judged, outcome, thoughts)
    m = magnitude(judged, outcome, r_c)
    advantages = closed_form_advantages(sides, outcome, m, thought_lengths(thoughts))
    return CreditedSolution(judged, outcome, thoughts, tuple(process_rewards(sides, m).tolist()), advantages.float())


def credit_steps(judged: JudgedSolution, outcome: float, steps: tuple[Thought, ...], r_c: float) -> CreditedSolution:
    """A reward at each step's end, summed over what follows: nothing telescopes."""
    sides = agrees_with_answer(judged, steps)
    if sides is None:
        return credit_outcome(judged, outcome, steps)
    rewards = process_rewards(sides, magnitude(judged, outcome, r_c))
    advantages = suffix_sum_advantages(rewards, outcome, thought_lengths(steps))
    return CreditedSolution(judged, outcome, steps, tuple(rewards.tolist()), advantages.float())


def magnitude(judged: JudgedSolution, outcome: float, r_c: float) -> float:
    """r_c in a correct solution, the standardised outcome reward in an incorrect one (paper, Stage II)."""
    return r_c if judged.outcome is Outcome.CORRECT else outcome
