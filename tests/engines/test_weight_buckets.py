"""Buckets of weights: the same layout on both sides, the same bits, and no message larger than it may be."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.engines.vllm.buckets import TensorSpec, cut_buckets, packed

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int8)
specs_of = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 7), max_size=3).map(tuple)), max_size=12
).map(lambda parts: [TensorSpec(f"w{i}", dtype, shape) for i, (dtype, shape) in enumerate(parts)])


def random_tensor(spec: TensorSpec) -> torch.Tensor:
    """Any bits, also those that are no numbers."""
    return torch.randint(0, 256, (spec.n_bytes,), dtype=torch.uint8).view(spec.dtype).view(spec.shape)


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_worked_example():
    specs = [
        TensorSpec("a", torch.bfloat16, (3,)),  # 6 bytes, the next one begins at 16
        TensorSpec("b", torch.float32, (2, 2)),  # 16 bytes, up to 32
        TensorSpec("c", torch.float32, (5,)),  # 20 more would be 52: a bucket of its own
        TensorSpec("d", torch.float32, (25,)),  # larger than a bucket
        TensorSpec("e", torch.int8, (1,)),
    ]
    buckets = cut_buckets(specs, 40)
    assert [[s.name for s in b.specs] for b in buckets] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert [b.offsets for b in buckets] == [(0, 16), (0,), (0,), (0,)]
    assert [b.n_bytes for b in buckets] == [32, 20, 100, 1]
    assert cut_buckets([], 40) == []


@given(specs_of, st.integers(1, 300))
def test_the_same_bits_arrive_and_no_message_is_larger_than_it_may_be(specs, limit):
    torch.manual_seed(0)
    sent = [(spec.name, random_tensor(spec)) for spec in specs]
    buckets = cut_buckets(specs, limit)
    arrived = []
    for bucket, message in zip(buckets, packed(sent, buckets), strict=True):
        assert message.numel() == bucket.n_bytes
        assert bucket.n_bytes <= max(limit, *(spec.n_bytes for spec in bucket.specs))
        copy = message.clone()  # what a receiver has, whatever the sender writes next
        arrived += [(s.name, view) for s, view in zip(bucket.specs, bucket.views(copy), strict=True)]
    assert [(n, t.dtype, t.shape, as_bytes(t)) for n, t in arrived] == [
        (n, t.dtype, t.shape, as_bytes(t)) for n, t in sent
    ]
    # No bucket ends early: the first tensor of the next one would not have gone into it.
    for bucket, following in pairwise(buckets):
        assert -(-bucket.n_bytes // 16) * 16 + following.specs[0].n_bytes > limit


def test_tensors_in_other_dtypes_and_strides_are_sent_as_announced():
    sent = [("a", torch.arange(6.0).view(2, 3).t()), ("b", torch.tensor(1.5)), ("c", torch.ones(4))]
    specs = [TensorSpec("a", torch.float32, (3, 2)), TensorSpec("b", torch.float32, ())]
    specs.append(TensorSpec("c", torch.bfloat16, (4,)))
    for limit in (1, 1000):
        buckets = cut_buckets(specs, limit)
        views = [v.clone() for b, m in zip(buckets, packed(sent, buckets), strict=True) for v in b.views(m)]
        assert views[0].tolist() == [[0, 3], [1, 4], [2, 5]]
        assert views[1].item() == 1.5
        assert views[2].dtype == torch.bfloat16
        assert views[2].tolist() == [1, 1, 1, 1]


def test_many_small_tensors_share_one_piece_of_memory():
    specs = [TensorSpec(f"w{i}", torch.float32, (8,)) for i in range(40)]
    buckets = cut_buckets(specs, 256)
    assert len(buckets) == 5
    pairs = [(spec.name, torch.full((8,), float(i))) for i, spec in enumerate(specs)]
    assert len({message.data_ptr() for message in packed(pairs, buckets)}) == 1


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ([("a", torch.ones(2))], r"hold nothing in place of b of shape \(3,\)"),
        ([("a", torch.ones(2)), ("c", torch.ones(3))], r"hold c of shape \(3,\) in place of b"),
        ([("a", torch.ones(2)), ("b", torch.ones(3, 1))], r"hold b of shape \(3, 1\) in place of b of shape \(3,\)"),
        ([("a", torch.ones(2)), ("b", torch.ones(3)), ("c", torch.ones(1))], "hold c, which was not announced"),
    ],
)
@pytest.mark.parametrize("limit", [1, 1000])
def test_other_tensors_than_announced_are_refused(sent, message, limit):
    specs = [TensorSpec("a", torch.float32, (2,)), TensorSpec("b", torch.float32, (3,))]
    with pytest.raises(ValueError, match=message):
        list(packed(sent, cut_buckets(specs, limit)))
