"""What a transformers model makes of given completions, from one forward pass: states, log-probs and entropies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_tpgrpo.engines.base import TokenScores
from lit_tpgrpo.functional.logprobs import selected_logprobs
from lit_tpgrpo.pretrained import head_of
from lit_tpgrpo.token_arrays import Offsets

Row = tuple[Offsets, Offsets]
"""Prompt and completion, token ids; the prompt is not empty."""


def completion_states(model: PreTrainedModel, rows: Sequence[Row]) -> list[tuple[Tensor, Tensor]]:
    """Compute of each row the states that predict its completion, (L, H), and the completion's ids, (L,), in one batch."""
    device = model.device
    whole = [torch.tensor((*prompt, *completion), dtype=torch.long) for prompt, completion in rows]
    ids = nn.utils.rnn.pad_sequence(whole, batch_first=True).to(device)
    lengths = torch.tensor([len(row) for row in whole], device=device)
    mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    # The state at position t - 1 predicts token t.
    return [
        (hidden[i, len(p) - 1 : len(p) + len(c) - 1], ids[i, len(p) : len(p) + len(c)]) for i, (p, c) in enumerate(rows)
    ]


def forced_scores(model: PreTrainedModel, rows: Sequence[Row], temperature: float = 1.0) -> list[TokenScores]:
    """Score the completion of each row, in one batch padded to its longest.

    The head runs on completion positions only and in tiles, so that the (tokens, vocabulary) logits never exist.
    """
    states, targets = zip(*completion_states(model, rows), strict=True)
    weight, bias = head_of(model)
    logprobs, entropies = selected_logprobs(
        torch.cat(states), weight, torch.cat(targets), temperature=temperature, bias=bias
    )
    counts = [len(completion) for _, completion in rows]
    return [
        TokenScores(tuple(p.tolist()), tuple(e.tolist()))
        for p, e in zip(logprobs.split(counts), entropies.split(counts), strict=True)
    ]
