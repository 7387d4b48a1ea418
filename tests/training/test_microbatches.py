"""Micro-batches hold each sequence once, within the budget, with targets and predictors in step."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.functional.token_budget import token_budget_slices
from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.training.microbatches import MicroBatch
from lit_tpgrpo.training.packing import Packed, PackedByPositions
from lit_tpgrpo.training.padding import Masked, Padded


def sequence(prompt: list[int], completion: list[int]) -> TrainingSequence:
    n = len(completion)
    return TrainingSequence(
        torch.tensor(prompt), torch.tensor(completion), -torch.arange(1.0, n + 1), 0.5 * torch.arange(1.0, n + 1)
    )


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1000))
def test_slices_hold_each_index_once_and_respect_the_budget(lengths: list[int], budget: int):
    slices = token_budget_slices(lengths, budget)
    assert sorted(i for s in slices for i in s) == list(range(len(lengths)))
    for s in slices:
        assert len(s) == 1 or len(s) * max(lengths[i] for i in s) <= budget


def test_slices_by_hand():
    # Sorted 9, 5, 4, 2, 1 under 10: 9 alone, then 5+4 (2 x 5), then 2+1.
    assert token_budget_slices([2, 9, 4, 1, 5], 10) == [[1], [4, 2], [0, 3]]


def test_padding_by_hand():
    micro = Padded(0).collate([sequence([11, 12], [13]), sequence([21], [22, 23, 24])])
    assert plain(micro) == {"input_ids": [[11, 12, 13, 0], [21, 22, 23, 24]]}
    assert plain(Masked(0).collate([sequence([11, 12], [13]), sequence([21], [22, 23, 24])])) == {
        "input_ids": [[11, 12, 13, 0], [21, 22, 23, 24]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
    }
    assert micro.lengths.tolist() == [1, 3]
    assert micro.row.tolist() == [0, 1, 1, 1]
    assert micro.predictors.tolist() == [1, 4, 5, 6]
    assert micro.targets.tolist() == [13, 22, 23, 24]
    assert micro.old_logprobs.tolist() == [-1.0, -1.0, -2.0, -3.0]
    assert micro.advantages.tolist() == [0.5, 0.5, 1.0, 1.5]


def test_loss_masks_are_joined_and_those_that_are_missing_are_true():
    masked = replace(sequence([11], [12, 13]), loss_mask=torch.tensor([True, False]))
    assert Padded(0).collate([sequence([21], [22]), masked]).loss_mask.tolist() == [True, True, False]  # pyright: ignore
    assert Padded(0).collate([sequence([21], [22])]).loss_mask is None
    assert masked.to("cpu").loss_mask.tolist() == [True, False]  # pyright: ignore


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8))
def test_every_target_follows_its_predictor(shapes: list[tuple[int, int]]):
    sequences = [
        sequence(list(range(100 * i + 1, 100 * i + 1 + p)), list(range(100 * i + 50, 100 * i + 50 + c)))
        for i, (p, c) in enumerate(shapes)
    ]
    for batching in (Padded(0), PackedByPositions()):
        micro = batching.collate(sequences)
        assert torch.equal(micro.model_inputs["input_ids"].flatten()[micro.predictors + 1], micro.targets)
        assert len(micro.targets) == sum(c for _, c in shapes)


def test_packing_by_hand():
    """A prompt of two neighbours comes once, and its last token, at place 1, predicts the first token of both."""
    sequences = [sequence([11, 12], [13, 14]), sequence([11, 12], [15]), sequence([21], [22, 23])]
    micro = Packed().collate(sequences)
    packing = micro.model_inputs["packing"]
    assert micro.model_inputs["input_ids"].tolist() == [[11, 12, 13, 14, 15, 21, 22, 23]]
    assert micro.model_inputs["position_ids"].tolist() == [[0, 1, 2, 3, 2, 0, 1, 2]]
    assert (packing.segments, packing.sequences) == ((2, 2, 1, 3), ((0, 1), (0, 2), (3,)))
    assert micro.predictors.tolist() == [1, 2, 1, 5, 6]
    assert micro.targets.tolist() == [13, 14, 15, 22, 23]
    assert (micro.row.tolist(), micro.lengths.tolist()) == ([0, 0, 1, 2, 2], [2, 1, 2])


def test_packing_by_positions_by_hand():
    micro = PackedByPositions().collate([sequence([11, 12], [13, 14]), sequence([21], [22])])
    assert plain(micro) == {
        "input_ids": [[11, 12, 13, 14, 21, 22]],
        "position_ids": [[0, 1, 2, 3, 0, 1]],
        "cu_seq_lens_q": [0, 4, 6],
        "cu_seq_lens_k": [0, 4, 6],
        "max_length_q": 4,
        "max_length_k": 4,
    }
    assert micro.predictors.tolist() == [1, 2, 4]


def test_a_packed_row_counts_a_prompt_once():
    """Prompts of 4 and 1, budget 10: 4 + 3 + 3 tokens fit into one row; the prompt begins again with the next row."""
    a, b = [1, 2, 3, 4], [9]
    sequences = [sequence(b, [5]), sequence(a, [5] * 3), sequence(a, [6] * 3), sequence(a, [7] * 2), sequence(b, [6])]
    assert Packed().slices(sequences, 10) == [[1, 2], [3, 0, 4]]
    assert PackedByPositions().slices(sequences, 10) == [[1], [2], [3, 0, 4]]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=30), st.integers(1, 60))
def test_packed_rows_hold_each_sequence_once_within_the_budget(drawn: list[tuple[int, int]], budget: int):
    prompts = [[1], [2, 2, 2], [3] * 6]
    sequences = [sequence(prompts[p], [5] * n) for p, n in drawn]
    for batching in (Packed(), PackedByPositions()):
        slices = batching.slices(sequences, budget)
        assert sorted(i for rows in slices for i in rows) == list(range(len(sequences)))
        for rows in slices:
            row = batching.collate([sequences[i] for i in rows]).model_inputs["input_ids"]
            assert row.numel() <= budget or len(rows) == 1


def plain(micro: MicroBatch) -> dict[str, object]:
    return {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in micro.model_inputs.items()}


def test_a_batch_moves_whole():
    moved = sequence([1], [2, 3]).to("meta")
    assert {t.device.type for t in (moved.prompt_ids, moved.completion_ids, moved.old_logprobs, moved.advantages)} == {
        "meta"
    }
