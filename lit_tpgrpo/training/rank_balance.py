"""Move sequences between ranks before an optimizer step, so that none waits long for another.

Each rank trains on what it sampled, less what was dropped, so one may have twice the tokens of another; every micro-batch ends
in a collective, and the others wait. The step's gradient is a sum over all sequences, whichever rank computes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from lit_tpgrpo.distributed import gather, rank, world_size
from lit_tpgrpo.pretrained import head_of
from lit_tpgrpo.records import TrainingSequence

WORTHWHILE = 0.02
"""Share of the mean load that a move must take off the largest; sending costs something, too."""


def sequence_cost(tokens: int, hidden_size: int) -> float:
    """Compute a sequence's cost in tokens of linear work: n + n^2 / (12 H).

    A layer's matrices have about 12 H^2 parameters, so a token costs 6 * 12 H^2 operations in them, forward and backward, and
    causal attention 6 H n for a sequence of n: both are equal at n = 12 H.
    """
    return tokens + tokens**2 / (12 * hidden_size)


def hidden_size(model: PreTrainedModel) -> int:
    """Return H, the width of the head's input."""
    return head_of(model)[0].shape[1]


def plan_moves(costs: Sequence[Sequence[float]]) -> list[tuple[int, int, int]]:
    """Plan which sequences change their rank: (rank, index there, new rank), each sequence at most once.

    From the rank with the largest load to the one with the smallest goes what brings them closest to each other, until no move
    is worthwhile.

    Args:
        costs: of each rank's sequences.
    """
    loads = [sum(of) for of in costs]
    left = [dict(enumerate(of)) for of in costs]
    mean = sum(loads) / len(loads)
    moves: list[tuple[int, int, int]] = []
    while True:
        most, least = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[most] - loads[least]
        # After a move of cost c the larger of the two is max(load - c, least + c): less by min(c, gap - c).
        gains = {i: min(c, gap - c) for i, c in left[most].items()}
        best = max(gains, key=lambda i: (gains[i], -i), default=None)
        if best is None or gains[best] <= WORTHWHILE * mean:
            return moves
        cost = left[most].pop(best)  # not to be moved on: it is not in ``left`` of its new rank
        loads[most] -= cost
        loads[least] += cost
        moves.append((most, best, least))


def balance_ranks(
    sequences: Sequence[TrainingSequence], hidden_size: int, device: torch.device
) -> list[TrainingSequence]:
    """Return what this rank trains on: its own sequences without those that move, then those that come. Collective.

    Args:
        sequences: this rank's.
        hidden_size: of the policy.
        device: of this rank.
    """
    if world_size() == 1:
        return list(sequences)
    costs = gather([sequence_cost(len(s), hidden_size) for s in sequences])
    moves = plan_moves(costs)
    if not moves:
        return list(sequences)
    here = rank()
    leaving = {index: to for source, index, to in moves if source == here}
    # On the CPU: a tensor of another rank's GPU would be unpickled onto that GPU.
    sent = gather([(to, sequences[i].to("cpu")) for i, to in leaving.items()])
    arrived = [sequence.to(device) for parcel in sent for to, sequence in parcel if to == here]
    return [s for i, s in enumerate(sequences) if i not in leaving] + arrived
