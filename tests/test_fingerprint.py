"""Fingerprints leave the tensors that they look at as they were."""

from __future__ import annotations

import torch

from lit_tpgrpo.fingerprint import fingerprint


def test_the_storage_of_a_small_tensor_can_be_freed_afterwards():
    """As FSDP frees gathered weights; ``numpy`` on a view of them forbids it."""
    small, wide = torch.ones(64), torch.ones(4, 600)
    before = fingerprint([("a", small), ("b", wide)])
    small.untyped_storage().resize_(0)
    wide.untyped_storage().resize_(0)
    assert before == fingerprint([("a", torch.ones(64)), ("b", torch.ones(4, 600))])
    assert before != fingerprint([("a", torch.zeros(64)), ("b", torch.ones(4, 600))])
