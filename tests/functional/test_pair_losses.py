"""Losses of reward models on pairs: the worked numbers, gradients, and what they are at the ends of their ranges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.functional.pair_losses import (
    bradley_terry_loss,
    cosine_similarity,
    length_similarity,
    margin_limit,
    pcrm_pair_loss,
    q_rm_pair_loss,
    rebel_loss,
)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def naive(x):
    """-log sigma(x)."""
    return math.log1p(math.exp(-x)) if x > 0 else -x + math.log1p(math.exp(x))


def test_q_rms_worked_numbers():
    """-log sigma(.4 - 2) at a margin of 2, -log sigma(2.4 - 2) at 12; gamma lies outside of beta, so half of it is at 10."""
    assert q_rm_pair_loss(tensor(2.0, 12.0)).tolist() == pytest.approx([1.7839, 0.5130], abs=1e-4)
    assert q_rm_pair_loss(tensor(10.0)).tolist() == pytest.approx([math.log(2)])


def test_pcrms_worked_numbers():
    """beta1 20, beta3 -17: limits 2.98, 7.9688 and 22.9202 at similarities 1, .8 and .5; losses at margins 0 and 1."""
    similarity = tensor(1.0, 0.8, 0.5)
    assert margin_limit(similarity, 20.0, -17.0).tolist() == pytest.approx([2.9800, 7.9688, 22.9202], abs=1e-4)
    at_0, at_1 = (pcrm_pair_loss(tensor(d, d, d), similarity, 20.0, -17.0) for d in (0.0, 1.0))
    assert at_0.tolist() == pytest.approx([0.7427, 0.6935, 0.6931], abs=1e-4)
    assert at_1.tolist() == pytest.approx([0.4426, 0.3142, 0.3133], abs=1e-4)


def test_rebels_worked_numbers():
    assert bradley_terry_loss(tensor(1.0)).tolist() == pytest.approx([0.3133], abs=1e-4)
    assert rebel_loss(tensor(1.0), tensor(0.4), 0.1).tolist() == pytest.approx([0.2733], abs=1e-4)


def test_similarities_of_pcrm():
    assert length_similarity(torch.tensor([1, 9, 0, 0, 4]), torch.tensor([9, 1, 0, 5, 4])).tolist() == pytest.approx(
        [1 / 9, 1 / 9, 1.0, 0.0, 1.0]
    )
    assert cosine_similarity(tensor(1.0, 0.5, 0.0, -1.0, 1.5)).tolist() == pytest.approx([1.0, 2 / 3, 0.5, 0.5, 1.0])


@given(st.floats(-500, 500), st.floats(0, 1))
def test_against_plain_python(margin, similarity):
    """Large margins overflow nothing."""
    limit = 6 / (similarity + 0.001)
    found = pcrm_pair_loss(tensor(margin), tensor(similarity), 6.0, 0.0).item()
    assert found == pytest.approx(naive(margin) + naive(limit - margin), rel=1e-9, abs=1e-12)
    assert q_rm_pair_loss(tensor(margin)).item() == pytest.approx(naive(0.2 * margin - 2), rel=1e-9, abs=1e-12)


def test_gradients():
    """PCRM's vanishes half way to the limit, where it pulls both ways alike; REBEL's regulariser has its weight."""
    margin = (margin_limit(tensor(1.0), 20.0, -17.0) / 2).requires_grad_()
    pcrm_pair_loss(margin, tensor(1.0), 20.0, -17.0).sum().backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(0.0, abs=1e-12)
    bonus = tensor(0.4).requires_grad_()
    rebel_loss(tensor(1.0), bonus, 0.1).sum().backward()
    assert bonus.grad is not None
    assert bonus.grad.item() == pytest.approx(-0.1)
    margins = tensor(-1.0, 0.3, 12.0).requires_grad_()
    assert torch.autograd.gradcheck(q_rm_pair_loss, margins)
