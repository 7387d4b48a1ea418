"""Pure functions of the metrics: the score of one problem from its samples, and the mean and standard error of scores."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_tpgrpo.records import Outcome

_LAYOUT = re.compile(r"\\left(?![A-Za-z])|\\right(?![A-Za-z])|\\!|(?<!\\)\$")
_SPACES = re.compile(r"(?:\s|\\[,;: ])+")
# Between digits a space tells numbers apart (1 1/2), unless it groups the digits of one in threes.
_NEEDLESS_SPACE = re.compile(r"(?<!\d) | (?!\d)| (?=\d{3}(?![\d/]))")
_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")


def average(outcomes: Sequence[Outcome]) -> float:
    """Return the share of correct samples.

    UNVERIFIABLE and UNDECIDED count as not correct, so that k does not change and a score never exceeds what was verified.

    >>> average([Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE, Outcome.CORRECT])
    0.5
    """
    _check_not_empty(outcomes)
    return _correct(outcomes) / len(outcomes)


def pass_at_k(outcomes: Sequence[Outcome], k: int) -> float:
    r"""Estimate without bias, from n >= k samples, the probability that at least one of k samples is correct.

    .. math:: 1 - \binom{n - c}{k} / \binom{n}{k}

    with c of the n samples correct (Chen et al. 2021, https://arxiv.org/abs/2107.03374): the share of the k-subsets of
    the samples that contain a correct one. Computed in exact integers, so it is accurate for any n.

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
    """Score the most frequent answer: 1 if it is correct, 0 if not, the mean of the scores of tied answers.

    Each extracted answer is a vote for its ``key`` (``vote_key`` by default), even if it is UNVERIFIABLE or UNDECIDED. None is
    no vote, and without any vote the score is 0. Tied answers are equally likely to be chosen, hence the mean. The score of an
    answer is the share of its votes that were judged correct, which is 0 or 1 unless the verifier judged equal texts
    differently.

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
    highest = max(len(judged) for judged in votes.values())
    tied = [sum(judged) / highest for judged in votes.values() if len(judged) == highest]
    return sum(tied) / len(tied)


def vote_key(answer: str) -> str:
    r"""Return the answer without ``\left``, ``\right``, ``$``, ``\dfrac`` and spaces, which do not change how it looks.

    A space between two numbers stays.

    No mathematics: 1/2 and 0.5 are two candidates. Voting by the verifier's equality with the gold would be wrong, as
    it would merge only the correct answers.

    >>> vote_key(r"$\left( 3, \dfrac{\pi}{2} \right)$")
    '(3,\\frac{\\pi}{2})'
    """
    text = _NEEDLESS_SPACE.sub("", _SPACES.sub(" ", _LAYOUT.sub("", answer)))
    return _FRACTION.sub(r"\\frac", text)


def moments_update(score: float) -> Tensor:
    """Return one problem's terms of the sums for mean and standard error: [score, score^2, 1] in float64."""
    return torch.tensor([score, score * score, 1.0], dtype=torch.float64)


def moments_compute(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean over P problems and its standard error s / sqrt(P), with s the sample standard deviation (P - 1).

    The problems are considered a sample of all such problems, so the error includes the variation between problems, not
    only that of sampling solutions. The mean of no problem and the error of fewer than two are NaN.
    """
    total, squares, count = moments
    mean = total / count
    # Rounding may make the difference of two equal sums slightly negative; NaN (no problem) must stay NaN.
    spread = (squares - count * mean * mean).clamp(min=0.0)
    variance = torch.where(count > 1, spread / (count - 1), torch.nan)
    return mean, (variance / count).sqrt()


def _correct(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome is Outcome.CORRECT for outcome in outcomes)


def _check_not_empty(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        raise ValueError("expected the outcomes of at least one sample, got none")
