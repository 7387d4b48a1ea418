"""Losses of reward models on pairs of a better and a worse answer: Bradley-Terry, Q-RM's, PCRM's and REBEL's.

For those who train a reward model: this package trains policies, and takes such a model's rewards as evidence. All are
differentiable, and each gives one loss for each pair.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(margins: Tensor) -> Tensor:
    """Compute -log sigma(r_w - r_l).

    Args:
        margins: (B,) reward of the better answer less that of the worse one.

    Returns:
        (B,) losses.

    >>> bradley_terry_loss(torch.tensor([0.0, 1.0]))
    tensor([0.6931, 0.3133])
    """
    return -logsigmoid(margins)


def q_rm_pair_loss(margins: Tensor, beta: float = 0.2, gamma: float = 2.0) -> Tensor:
    """Compute Q-RM's -log sigma(beta (z_w - z_l) - gamma), z the mean of an answer's token scores.

    gamma is outside of beta: the loss is log 2 at a margin of gamma / beta, 10 with the defaults. Source: Q-RM
    (arXiv 2505.23363; code homzer/Q-RM@74fd338b, ``rewards/strategy.py``). Token scores are logits of the chosen tokens in the
    text (``ChosenTokenLogits``), a scalar head in the code.

    Args:
        margins: (B,) mean token score of the better answer less that of the worse one, over response tokens.
        beta: 0.2 in the source.
        gamma: 2 in the source.

    Returns:
        (B,) losses.

    >>> q_rm_pair_loss(torch.tensor([2.0, 12.0]))
    tensor([1.7839, 0.5130])
    """
    return bradley_terry_loss(beta * margins - gamma)


def pcrm_pair_loss(margins: Tensor, similarity: Tensor, beta1: float, beta3: float, beta2: float = 0.001) -> Tensor:
    """Compute PCRM's -log sigma(d) - log sigma(limit - d), which keeps the margin d of similar answers small:

        limit = beta1 / (similarity + beta2) + beta3

    Source: PCRM (arXiv 2404.00978; code wangclnlp/DeepSpeed-Chat-Extension, branch PCRM@c5e87b8f, ``reward_model.py``), where d
    is the mean over tokens after the texts diverge. The code's defaults are 6 and 0; it uses 20 and -13, -17 or -19 with
    ``length_similarity`` on Alpaca, 20 and -15 with ``cosine_similarity``, 10 and -5 on TL;DR.

    Args:
        margins: (B,) d.
        similarity: (B,) of the two answers, in [0, 1].
        beta1: width of the limit.
        beta3: added to it.
        beta2: keeps the limit of answers without similarity finite; 0.001 in the source.

    Returns:
        (B,) losses.

    >>> pcrm_pair_loss(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), beta1=20.0, beta3=-17.0)
    tensor([0.7427, 0.4426])
    """
    return bradley_terry_loss(margins) + bradley_terry_loss(margin_limit(similarity, beta1, beta3, beta2) - margins)


def margin_limit(similarity: Tensor, beta1: float, beta3: float, beta2: float = 0.001) -> Tensor:
    """Compute the limit of ``pcrm_pair_loss``, (B,): beta1 / (similarity + beta2) + beta3.

    >>> margin_limit(torch.tensor([1.0, 0.8, 0.5]), beta1=20.0, beta3=-17.0)
    tensor([ 2.9800,  7.9688, 22.9202])
    """
    return beta1 / (similarity + beta2) + beta3


def length_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Compute PCRM's ratio of the shorter to the longer length of two answers behind the tokens that they share.

    Args:
        first: (B,) lengths, not negative.
        second: (B,) lengths, likewise.

    Returns:
        (B,) in [0, 1], float32; 1 if both are 0.

    >>> length_similarity(torch.tensor([1, 9, 0, 0]), torch.tensor([9, 9, 0, 3]))
    tensor([0.1111, 1.0000, 1.0000, 0.0000])
    """
    shorter, longer = torch.minimum(first, second).float(), torch.maximum(first, second).float()
    return torch.where(longer == 0, 1.0, shorter / longer.clamp(min=1))


def cosine_similarity(cosines: Tensor) -> Tensor:
    """Compute PCRM's (pi - arccos c) / pi of the cosine c of two answers' embeddings, clamped to [0, 1].

    Args:
        cosines: (B,) of the CLS states of BERT in the source.

    Returns:
        (B,) in [0.5, 1].

    >>> cosine_similarity(torch.tensor([1.0, 0.0, -0.5]))
    tensor([1.0000, 0.5000, 0.5000])
    """
    return (math.pi - torch.arccos(cosines.clamp(0.0, 1.0))) / math.pi


def rebel_loss(margins: Tensor, expected_return: Tensor, weight: float) -> Tensor:
    """Compute REBEL's -log sigma(r_w - r_l) - weight * expected return of the current policy under the reward model.

    Of robotic RLHF (arXiv 2312.14436), not of the REBEL of arXiv 2404.16767. Second-hand and from the abstract: the exact form
    of the regulariser, the agent's preference, is not known to us, and its weight is unpublished. It is the user's number:
    any differentiable estimate of the return.

    Args:
        margins: (B,) return of the better segment less that of the worse one.
        expected_return: 0-d or (B,).
        weight: lambda, unpublished.

    Returns:
        (B,) losses.

    >>> rebel_loss(torch.tensor([1.0]), torch.tensor(0.4), weight=0.1)
    tensor([0.2733])
    """
    return bradley_terry_loss(margins) - weight * expected_return
