"""Compute the credit of one solution from its thoughts and the size of the process reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lit_tpgrpo.credit.merging import agrees_with_answer, merge_thoughts, thought_lengths
from lit_tpgrpo.functional.advantages import closed_form_advantages, process_rewards, suffix_sum_advantages
from lit_tpgrpo.records import CreditedSolution, JudgedSolution, Thought


def credit_outcome(judged: JudgedSolution, outcome: float, thoughts: tuple[Thought, ...]) -> CreditedSolution:
    """Give every token the outcome advantage."""
    advantages = torch.full((len(judged.solution.completion_ids),), outcome, dtype=torch.float32)
    return CreditedSolution(judged, outcome, thoughts, (0.0,) * len(thoughts), advantages)


def credit_nothing(judged: JudgedSolution) -> CreditedSolution:
    """Give every token the advantage 0: what the credit goes by is unknown, or there is no other one to compare it with."""
    return replace(credit_outcome(judged, 0.0, merge_thoughts(judged.verdict)), is_compared=False)


def credit_compared(judged: JudgedSolution, advantage: float | None) -> CreditedSolution:
    """Give every token one advantage; None gives no credit, for there was nothing to compare."""
    if advantage is None:
        return credit_nothing(judged)
    return credit_outcome(judged, advantage, merge_thoughts(judged.verdict))


def credit_single_thoughts(
    judged: JudgedSolution, outcome: float, thoughts: tuple[Thought, ...], rewards: Sequence[float]
) -> CreditedSolution:
    """Credit the tokens of each thought with the outcome advantage plus the thought's own reward, without suffix sums."""
    table = outcome + torch.tensor(rewards, dtype=torch.float64)
    advantages = table.repeat_interleave(thought_lengths(thoughts)).float()
    return CreditedSolution(judged, outcome, thoughts, tuple(rewards), advantages)


def credit_thoughts(
    judged: JudgedSolution, outcome: float, thoughts: tuple[Thought, ...], m: float
) -> CreditedSolution:
    """Credit merged thoughts by TP-GRPO's table; without a process reward (see ``agrees_with_answer``), the outcome only.

    Args:
        judged: the solution.
        outcome: its standardised reward.
        thoughts: its merged thoughts.
        m: size of its process rewards, see ``group_relative.process_magnitude``.
    """
    agrees = agrees_with_answer(judged, thoughts)
    if agrees is None:
        return credit_outcome(judged, outcome, thoughts)
    advantages = closed_form_advantages(agrees, outcome, m, thought_lengths(thoughts))
    return CreditedSolution(judged, outcome, thoughts, tuple(process_rewards(agrees, m).tolist()), advantages.float())


def credit_steps(judged: JudgedSolution, outcome: float, steps: tuple[Thought, ...], m: float) -> CreditedSolution:
    """Credit unmerged steps: a token's advantage is the sum of the rewards at its step's end and after, without telescoping.

    The arguments are those of ``credit_thoughts``.
    """
    agrees = agrees_with_answer(judged, steps)
    if agrees is None:
        return credit_outcome(judged, outcome, steps)
    rewards = process_rewards(agrees, m)
    advantages = suffix_sum_advantages(rewards, outcome, thought_lengths(steps))
    return CreditedSolution(judged, outcome, steps, tuple(rewards.tolist()), advantages.float())
