"""Turn solutions into training data: tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_tpgrpo.records import CreditedSolution, Solution, TrainingSequence
from lit_tpgrpo.token_arrays import TokenFloats, token_floats


def tensor_floats(values: Tensor) -> TokenFloats:
    """Return log-probs that a scorer computed, (T,) on any device, as an array."""
    return token_floats(values.detach().float().cpu().numpy(), "log-probs")


def scoring_sequence(solution: Solution) -> TrainingSequence:
    """Convert a solution that is not credited yet to tensors whose log-probs can be computed; its advantages are 0."""
    return TrainingSequence(
        prompt_ids=torch.tensor(solution.prompt_ids, dtype=torch.int64),
        completion_ids=torch.tensor(solution.completion_ids, dtype=torch.int64),
        old_logprobs=torch.tensor(solution.logprobs, dtype=torch.float32),
        advantages=torch.zeros(len(solution.completion_ids)),
    )


def training_sequence(solution: CreditedSolution) -> TrainingSequence:
    """Convert a credited solution to the tensors that the trainer uses."""
    sampled = solution.judged.solution
    return TrainingSequence(
        prompt_ids=torch.tensor(sampled.prompt_ids, dtype=torch.int64),
        completion_ids=torch.tensor(sampled.completion_ids, dtype=torch.int64),
        old_logprobs=torch.tensor(sampled.logprobs, dtype=torch.float32)
        if solution.trainer_logprobs is None
        else solution.trainer_logprobs,
        advantages=solution.advantages,
        importance_weights=solution.importance_weights,
        loss_mask=solution.loss_mask,
    )
