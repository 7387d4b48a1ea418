"""The clipped surrogate on tensors of one shape, (N,) or padded (B, L): what its tests call."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_tpgrpo.losses import ClippedSurrogate, loss_inputs
from lit_tpgrpo.losses.metrics import LossMetrics, measure


def clipped_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    *,
    settings: Mapping[str, Any] | None = None,
    **optional: Tensor | None,
) -> tuple[Tensor, LossMetrics]:
    """Return the loss and its measurements; all tokens as one sequence, for this loss looks at none."""
    one_row, length = torch.zeros(logprobs.shape, dtype=torch.int64), torch.tensor([logprobs.numel()])
    inputs = loss_inputs(logprobs, old_logprobs, advantages, weights, one_row, length, mask=mask, **optional)
    output = ClippedSurrogate(**(settings or {}))(inputs)
    return output.loss, measure(inputs, output)
