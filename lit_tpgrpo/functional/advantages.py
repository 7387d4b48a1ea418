"""Token advantages from an outcome reward and thought-level process rewards.

Sources: process supervision with GRPO, DeepSeekMath (arXiv 2402.03300, section 4.1.3), where the advantage of a token is
the sum of the rewards at the step ends at or after it; TP-GRPO (arXiv 2507.23317, Stage II), which has one reward at the
end of each thought instead.

A thought *agrees with the answer* if it has the label of the answer block: CORRECT in a correct solution, MATCHED in an
incorrect one. In these terms one rule covers both kinds of solution. With r = the standardised reward and
m = r_c = alpha * capability for a correct solution, m = the outcome's part of r (<= 0; all of r where the outcome is the only
reward) for an incorrect one:

    process reward = +m if the thought agrees with the answer, -m if it does not, 0 for the last thought

The last thought, which contains the answer block, gets only r, because merged thoughts alternate: the suffix sum then
telescopes to the table of the paper's two propositions (any other reward there would shift every token by it):

    correct solution,   correct thought      r            incorrect solution, matched thought     r
    correct solution,   incorrect thought    r - r_c      incorrect solution, unmatched thought   r - m, 0 by outcome alone

``suffix_sum_advantages`` is the definition and serves as the reference. Training uses ``closed_form_advantages``, the table:
it is exact (an advantage that should be 0 is 0, so batches can be filtered on it) and needs one pass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def standardise_group(rewards: Tensor, ddof: int = 1, eps: float = 1e-6) -> Tensor:
    """Standardise rewards over the solutions of one problem: (r - mean) / (std + eps); exactly zero if all are equal.

    The paper states neither ddof nor eps; the defaults are this package's (the usual GRPO trainers use ddof 1).

    Args:
        rewards: (G,) floating point, one outcome reward per solution.
        ddof: 1 divides the variance by G - 1 (sample), 0 by G (population).
        eps: added to the standard deviation.

    Returns:
        (G,) of the same dtype.

    >>> standardise_group(torch.tensor([1.0, -1.0, -1.0, -1.0]), eps=0.0)  # mean -0.5, variance (2.25 + 3 * 0.25) / 3 = 1
    tensor([ 1.5000, -0.5000, -0.5000, -0.5000])
    """
    _check_rewards(rewards, ddof, eps)
    return _standardised_part(rewards, rewards, ddof, eps)


def standardise_part(part: Tensor, rewards: Tensor, ddof: int = 1, eps: float = 1e-6) -> Tensor:
    """Compute what one summand of the rewards adds to their standardised values: (p - mean(p)) / (std(r) + eps).

    The parts of a sum add up to ``standardise_group`` of the sum, and the part that is all of it is equal to it. Exactly zero
    if the parts are all equal, or the rewards are.

    Args:
        part: (G,) floating point, the summand in question of each solution's reward.
        rewards: (G,) floating point, the whole rewards.
        ddof: as for ``standardise_group``.
        eps: added to the standard deviation of the rewards.

    Returns:
        (G,) of the same dtype.

    >>> part, rest = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([-1.0, 0.0, 1.0])
    >>> standardise_part(part, part + rest, eps=0.0)  # rewards 0, -1, 0: std sqrt(1/3); part - mean: 4/3, -2/3, -2/3
    tensor([ 2.3094, -1.1547, -1.1547])
    """
    if part.shape != rewards.shape:
        raise ValueError(
            f"expected one part for each reward, got shapes {tuple(part.shape)} and {tuple(rewards.shape)}"
        )
    _check_rewards(rewards, ddof, eps)
    return _standardised_part(part, rewards, ddof, eps)


def _standardised_part(part: Tensor, rewards: Tensor, ddof: int, eps: float) -> Tensor:
    # Compare values instead of testing std == 0: the mean of equal floats may be rounded, and (r - mean) / eps be large.
    if bool((rewards == rewards[0]).all()) or bool((part == part[0]).all()):
        return torch.zeros_like(part)
    return (part - part.mean()) / (rewards.std(correction=ddof) + eps)


def _check_rewards(rewards: Tensor, ddof: int, eps: float) -> None:
    if rewards.ndim != 1 or not rewards.is_floating_point():
        raise ValueError(f"expected floating point rewards of shape (G,), got {rewards.dtype} {tuple(rewards.shape)}")
    if ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 (population) or 1 (sample), got {ddof}")
    if len(rewards) <= ddof:
        raise ValueError(f"a standard deviation with ddof={ddof} needs at least {ddof + 1} rewards, got {len(rewards)}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and not be negative, got {eps}")


def merge_runs(labels: Tensor) -> Tensor:
    """Return maximal runs of equal labels as half-open spans.

    Args:
        labels: (S,) integer or bool, one label per step.

    Returns:
        (T, 2) int64; (0, 2) if there are no labels.

    >>> merge_runs(torch.tensor([1, 1, 0, 1])).tolist()
    [[0, 2], [2, 3], [3, 4]]
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"expected integer or bool labels of shape (S,), got {labels.dtype} {tuple(labels.shape)}")
    _, counts = torch.unique_consecutive(labels, return_counts=True)
    ends = counts.cumsum(0)
    return torch.stack([ends - counts, ends], dim=1)


def process_rewards(agrees_with_answer: Tensor, magnitude: float) -> Tensor:
    """Compute the process reward of each thought: +-magnitude, and 0 for the last, which gets the outcome reward only.

    So a solution of a single thought has no process reward.

    Args:
        agrees_with_answer: (T,) bool; the last thought contains the answer, so its entry is True.
        magnitude: m in the module docstring: r_c for a correct solution, the (non-positive) outcome part of the standardised
            reward for an incorrect one.

    Returns:
        (T,) float64.

    >>> process_rewards(torch.tensor([True, False, True]), 0.5).tolist()
    [0.5, -0.5, 0.0]
    """
    _check_agreement(agrees_with_answer)
    rewards = magnitude * (2.0 * agrees_with_answer.double() - 1.0)
    rewards[-1] = 0.0
    return rewards


def suffix_sum_advantages(process: Tensor, outcome_advantage: float, lengths: Tensor) -> Tensor:
    """Compute A_t, the sum of the rewards at thought ends at or after token t, with the outcome reward at the last end.

    Args:
        process: (T,) process reward of each thought.
        outcome_advantage: the standardised outcome reward, added to that of the last thought.
        lengths: (T,) int64, tokens of each thought (may be 0: a short step can lie within one token).

    Returns:
        (sum of lengths,) token advantages, dtype of ``process``.

    >>> suffix_sum_advantages(torch.tensor([0.5, -0.5, 0.0]), 1.0, torch.tensor([2, 1, 1])).tolist()
    [1.0, 1.0, 0.5, 1.0]
    """
    _check_lengths(process, lengths)
    # All tokens of a thought have the same suffix of thought ends, so the sum is over thoughts, not over tokens.
    suffix = process.flip(0).cumsum(0).flip(0) + outcome_advantage
    return suffix.repeat_interleave(lengths)


def closed_form_advantages(
    agrees_with_answer: Tensor, outcome_advantage: float, magnitude: float, lengths: Tensor
) -> Tensor:
    """Compute advantages by the table: r for tokens that agree with the answer, r - magnitude otherwise.

    Equals ``suffix_sum_advantages(process_rewards(...))`` on merged thoughts. As a look-up per token, it gives the same for
    unmerged steps; the suffix sum does not.

    Args:
        agrees_with_answer: (T,) bool, last entry True.
        outcome_advantage: the standardised outcome reward r.
        magnitude: r_c for a correct solution, the outcome's part of r for an incorrect one (all of r where the outcome is the
            only reward: unmatched tokens then get exactly 0).
        lengths: (T,) int64, tokens of each thought.

    Returns:
        (sum of lengths,) float64 token advantages.

    >>> closed_form_advantages(torch.tensor([True, False, True]), 1.0, 0.5, torch.tensor([2, 1, 1])).tolist()
    [1.0, 1.0, 0.5, 1.0]
    """
    _check_agreement(agrees_with_answer)
    _check_lengths(agrees_with_answer, lengths)
    table = outcome_advantage - magnitude * (~agrees_with_answer).double()
    return table.repeat_interleave(lengths)


def _check_agreement(agrees_with_answer: Tensor) -> None:
    if agrees_with_answer.ndim != 1 or agrees_with_answer.dtype != torch.bool or not len(agrees_with_answer):
        got = f"{agrees_with_answer.dtype} {tuple(agrees_with_answer.shape)}"
        raise ValueError(f"expected bool agrees_with_answer of shape (T,) with T >= 1, got {got}")
    if not agrees_with_answer[-1]:
        raise ValueError(
            "the last thought contains the answer block, so its agrees_with_answer must be True, got False"
        )


def _check_lengths(thoughts: Tensor, lengths: Tensor) -> None:
    if lengths.shape != thoughts.shape or lengths.ndim != 1 or lengths.is_floating_point():
        got = f"{lengths.dtype} {tuple(lengths.shape)}"
        raise ValueError(f"expected integer lengths of shape {tuple(thoughts.shape)}, one per thought, got {got}")
