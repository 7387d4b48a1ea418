"""Choose how a model's micro-batches are put together, by what can be checked of the model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.training.microbatches import MicroBatching
from lit_tpgrpo.training.packing import Packed, PackedByPositions
from lit_tpgrpo.training.padding import Masked, Padded
from lit_tpgrpo.training.policy import PolicyModel

log = logging.getLogger(__name__)

BatchingName = Literal["auto", "packed", "padded", "masked"]


def choose_batching(
    name: BatchingName,
    policy: PolicyModel,
    pad_id: int,
    device: torch.device,
    max_over_ranks: Callable[[int], int],
) -> MicroBatching:
    """Return the batching of a policy. Collective: it runs the policy on a few tokens.

    - ``masked``: padded, with an attention mask.
    - ``padded``: without a mask if the model is found to be causal, else with one.
    - ``packed``: ``Packed`` for ``sdpa`` attention, ``PackedByPositions`` for others; for causal models with full attention.
    - ``auto``: ``padded``.

    Args:
        name: the option ``model.batching``.
        policy: on its device.
        pad_id: the token of the padding.
        device: of the policy.
        max_over_ranks: of a number; the ranks take the same batching.

    Raises:
        ConfigError: ``packed``, and the model cannot be packed.
    """
    if name == "packed":
        fault = packing_fault(policy.causal_lm)
        batching = Packed() if _attention(policy.causal_lm) == "sdpa" else PackedByPositions()
        if fault is None and max_over_ranks(int(not is_causal(policy, device))):
            fault = "a token's log-probs depend on what follows it"
        if fault is None and max_over_ranks(int(not keeps_apart(policy, batching, device))):
            fault = "what one sequence of a row says changes the log-probs of another"
        if fault is not None:
            raise ConfigError(
                f"model.batching is packed, and {type(policy.causal_lm).__name__} cannot be packed: {fault}; set it to padded"
            )
        return batching
    if name == "masked":
        return Masked(pad_id)
    if max_over_ranks(int(not is_causal(policy, device))):
        log.info("%s is not causal: micro-batches have an attention mask", type(policy.causal_lm).__name__)
        return Masked(pad_id)
    return Padded(pad_id)


def is_causal(policy: PolicyModel, device: torch.device) -> bool:
    """Tell whether padding on the right changes no bit of the log-probs on its left, by trying two paddings."""
    short, long = _sequence([2, 3], [4, 5], device), _sequence([2, 3], [5, 4, 3, 2, 5, 4], device)
    first, second = (_logprobs(policy, Padded(pad_id), [short, long])[:2] for pad_id in (0, 1))
    return torch.equal(first, second)


def keeps_apart(policy: PolicyModel, batching: MicroBatching, device: torch.device) -> bool:
    """Tell whether a sequence's log-probs are the same, bit by bit, beside another one in its row that changes."""
    kept = _sequence([2, 3], [4, 5, 2], device)
    changing = [_sequence([3, 5], tokens, device) for tokens in ([4, 4, 2, 3], [5, 2, 3, 4])]
    after = [_logprobs(policy, batching, [other, kept])[4:] for other in changing]
    before = [_logprobs(policy, batching, [kept, other])[:3] for other in changing]
    return torch.equal(*after) and torch.equal(*before)


def packing_fault(model: PreTrainedModel) -> str | None:
    """Return why a model's class or config rules out packing, None if nothing does.

    Only full attention is packed: a window or chunk would be lost where no mask is built.
    """
    parameters = inspect.signature(model.base_model.forward).parameters
    passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not getattr(model, "_supports_attention_backend", False) or "position_ids" not in parameters or not passes_on:
        return "it takes no attention function or positions from outside"
    config: Any = model.config.get_text_config()
    other = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if other:
        return f"it has layers of the kind {', '.join(other)}"
    if getattr(config, "layer_types", None) is None and getattr(config, "sliding_window", None) is not None:
        return f"its attention is limited to a window (sliding_window {config.sliding_window})"
    return None


def _attention(model: PreTrainedModel) -> str:
    return model.config._attn_implementation or "eager"


def _sequence(prompt: list[int], completion: list[int], device: torch.device) -> TrainingSequence:
    zeros = torch.zeros(len(completion), device=device)
    return TrainingSequence(torch.tensor(prompt, device=device), torch.tensor(completion, device=device), zeros, zeros)


def _logprobs(policy: PolicyModel, batching: MicroBatching, sequences: Sequence[TrainingSequence]) -> Tensor:
    with torch.no_grad(), _evaluating(policy), batching.ready([policy.causal_lm]):
        return policy(batching.collate(sequences), 1.0)[0]


@contextmanager
def _evaluating(policy: PolicyModel) -> Iterator[None]:
    """Turn dropout off."""
    training = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(training)
