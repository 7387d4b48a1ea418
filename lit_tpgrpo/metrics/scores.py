"""Pure functions behind the metrics: the score of one problem from its samples, and mean and standard error of them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_tpgrpo.records import Outcome

_LAYOUT = re.compile(r"\s+|\\left(?![A-Za-z])|\\right(?![A-Za-z])|\\[,;:! ]|(?<!\\)\$")
_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")


def average(outcomes: Sequence[Outcome]) -> float:
    """Share of correct samples. UNVERIFIABLE and UNDECIDED count as not correct: k samples stay k, and a score is never
    higher than what was verified.

    >>> average([Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE, Outcome.CORRECT])
    0.5
    """
    _check_not_empty(outcomes)
    return _correct(outcomes) / len(outcomes)


def pass_at_k(outcomes: Sequence[Outcome], k: int) -> float:
    r"""Probability that at least one of k samples is correct, estimated from n >= k samples without bias.

    .. math:: 1 - \binom{n - c}{k} / \binom{n}{k}

    with c of the n samples correct (Chen et al. 2021, https://arxiv.org/abs/2107.03374): the share of the k-subsets of
    the samples that hold a correct one. In exact integers, so that it is right for any n.

    >>> pass_at_k([Outcome.CORRECT, Outcome.INCORRECT, Outcome.INCORRECT], k=2)
    0.6666666666666666
    """
    if len(outcomes) < k:
        raise ValueError(
            f"pass@{k}: expected at least {k} samples for each problem, got {len(outcomes)}. Draw more, or lower k."
        )
    subsets = math.comb(len(outcomes), k)
    return (subsets - math.comb(len(outcomes) - _correct(outcomes), k)) / subsets


def majority(
    outcomes: Sequence[Outcome], answers: Sequence[str | None], key: Callable[[str], str] | None = None
) -> float:
    """Whether the most frequent answer is correct: 0 or 1, or in between at a tie.

    Each extracted answer is a vote for ``key`` of it (``vote_key`` by default), also where it is UNVERIFIABLE or UNDECIDED;
    None is no vote, and without any vote the score is 0. Among tied answers each is as likely to be chosen, so the score
    is the mean of theirs. An answer's own score is the share of its votes that were judged correct, which is 0 or 1 unless the
    verifier judged equal texts differently.

    >>> majority([Outcome.CORRECT, Outcome.CORRECT, Outcome.INCORRECT, Outcome.INCORRECT], ["4", "4", "5", None])
    1.0
    """
    _check_not_empty(outcomes)
    votes: defaultdict[str, list[bool]] = defaultdict(list)
    for outcome, answer in zip(outcomes, answers, strict=True):
        if answer is not None:
            votes[(key or vote_key)(answer)].append(outcome is Outcome.CORRECT)
    if not votes:
        return 0.0
    most = max(len(judged) for judged in votes.values())
    tied = [sum(judged) / most for judged in votes.values() if len(judged) == most]
    return sum(tied) / len(tied)


def vote_key(answer: str) -> str:
    r"""The answer without what does not change it on the page: spaces, ``\left``, ``\right``, ``$``, ``\dfrac``.

    No mathematics: 1/2 and 0.5 are two candidates. Voting by the verifier's equality with the gold would be wrong, as
    it would unite the correct answers only.

    >>> vote_key(r"$\left( 3, \dfrac{\pi}{2} \right)$")
    '(3,\\frac{\\pi}{2})'
    """
    return _FRACTION.sub(r"\\frac", _LAYOUT.sub("", answer))


def moments_update(score: float) -> Tensor:
    """[score, score^2, 1] in float64: what a problem adds to the sums from which mean and standard error come."""
    return torch.tensor([score, score * score, 1.0], dtype=torch.float64)


def moments_compute(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over problems and its standard error s / sqrt(P), with s the sample standard deviation (P - 1).

    The problems are taken for a sample of all such problems, so the error holds the spread between problems too, not
    only that of sampling solutions. NaN: the mean of no problem, the error of fewer than two.
    """
    total, squares, count = moments
    mean = total / count
    # Rounding may put the difference of two equal sums a little below zero; NaN (no problem) must stay NaN.
    spread = (squares - count * mean * mean).clamp(min=0.0)
    variance = torch.where(count > 1, spread / (count - 1), torch.nan)
    return mean, (variance / count).sqrt()


def _correct(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome is Outcome.CORRECT for outcome in outcomes)


def _check_not_empty(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        raise ValueError("expected the outcomes of at least one sample, got none")
