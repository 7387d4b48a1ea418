"""Log-probs of micro-batches: under the reference, and of whole completions under the current weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.training.microbatches import MicroBatch, MicroBatching, dummy_microbatch
from lit_tpgrpo.training.reference import AdapterOff, FrozenCopy


def reference_logprobs(
    reference: FrozenCopy | AdapterOff | None, batches: Sequence[MicroBatch], temperature: float, device: torch.device
) -> list[Tensor | None]:
    """Compute (N,) log-probs of each micro-batch of a step under the reference; None each without a reference.

    All of a step at once, so that an offloaded reference comes to the device once.
    """
    if reference is None:
        return [None] * len(batches)
    with reference.ready(device):
        return [reference.logprobs(batch, temperature) for batch in batches]


def completion_logprobs(
    logprobs_of: Callable[[MicroBatch], Tensor],
    sequences: Sequence[TrainingSequence],
    budget: int,
    batching: MicroBatching,
    device: torch.device,
    max_over_ranks: Callable[[int], int],
) -> list[Tensor]:
    """Compute (T,) float32 log-probs of each sequence's completion, on the CPU, without gradient.

    Cut into micro-batches of ``budget`` tokens as in training. Collective: all ranks call it, each with its sequences.
    ``logprobs_of`` computes (N,) log-probs of a micro-batch's targets.
    """
    slices = batching.slices(sequences, budget)
    # First of all: a sharded policy gathers its layers in every forward pass, which all ranks must run as often.
    passes = max_over_ranks(len(slices))
    by_index: dict[int, Tensor] = {}
    with torch.no_grad():
        for rows in slices:
            micro = batching.collate([sequences[i].to(device) for i in rows])
            logprobs = logprobs_of(micro).float().cpu()
            by_index |= zip(rows, logprobs.split(micro.lengths.tolist()), strict=True)
        for _ in range(passes - len(slices)):
            logprobs_of(dummy_microbatch(batching, device))
    return [by_index[i] for i in range(len(sequences))]
