"""Parts of one optimizer step: its batch, micro-batches, counts, the loss of a micro-batch, what is logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_tpgrpo.arguments import shown
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.functional.aggregation import BatchCounts, Normalisation, sequence_weights, step_quantile
from lit_tpgrpo.losses.base import (
    LossOutput,
    LossState,
    TokenLoss,
    entropy_quantile,
    loss_inputs,
    needs_one_advantage_per_solution,
)
from lit_tpgrpo.losses.metrics import LOGPROB_GAP, LOGPROB_GAP_MAX, LossMetrics, measure
from lit_tpgrpo.records import TrainBatch, TrainingSequence
from lit_tpgrpo.rollout.mismatch import warn_of_mismatch
from lit_tpgrpo.training.gradients import GradientNorm, loss_scaler, step_metrics
from lit_tpgrpo.training.microbatches import MicroBatch, MicroBatching, microbatches
from lit_tpgrpo.training.policy import PolicyModel


def check_batch(batch: object) -> None:
    """Refuse a batch that is no ``TrainBatch``, before anything is computed with it.

    Raises:
        ConfigError: it is no ``TrainBatch``.
    """
    if not isinstance(batch, TrainBatch):
        raise ConfigError(
            f"TPGRPOModule trains on lit_tpgrpo.records.TrainBatch, and the training loader gave {shown(batch)}; pass "
            "datamodule=MathRolloutDataModule(...) to the trainer, or a loader that yields TrainBatch"
        )


def check_advantages(token_loss: TokenLoss, batch: TrainBatch, max_over_ranks: Callable[[int], int]) -> None:
    """Refuse token advantages for a loss that takes one per solution, on all ranks and before the first forward pass.

    A loss that refuses them itself does so on the rank that has them, while the others wait for it. Collective.

    Raises:
        ConfigError: an unmasked token of a solution, on any rank, has another advantage than the rest.
    """
    if not needs_one_advantage_per_solution(token_loss):
        return
    used = [s.advantages if s.loss_mask is None else s.advantages[s.loss_mask] for s in batch.sequences]
    if max_over_ranks(int(any(bool((advantages != advantages[:1]).any()) for advantages in used))):
        raise ConfigError(
            f"the loss {type(token_loss).__name__} takes one advantage per solution (GSPO at the sequence level), and the "
            "tokens of a solution have different ones: use lit_tpgrpo.GSPOToken, its form for token advantages, or a credit "
            "with one advantage per solution (lit_tpgrpo.OutcomeCredit)"
        )


def is_on_policy(batch: TrainBatch, policy_version: int) -> bool:
    """Tell whether the current weights sampled the batch, and its old log-probs are the engine's.

    A corrected batch's are the trainer's; their difference from the engine's was measured once for the round.
    """
    corrected = any(s.importance_weights is not None for s in batch.sequences)
    return batch.policy_version == policy_version and not corrected


def rank_microbatches(
    sequences: Sequence[TrainingSequence], budget: int, batching: MicroBatching, max_over_ranks: Callable[[int], int]
) -> list[MicroBatch | None]:
    """Cut this rank's sequences into micro-batches, padded with None to the largest number on any rank. Collective."""
    local: list[MicroBatch | None] = list(microbatches(sequences, budget, batching))
    return local + [None] * (max_over_ranks(len(local)) - len(local))


def count_batch(
    batch: TrainBatch, norm_length: int | None, reduce: Callable[[Tensor, str], Tensor], device: torch.device
) -> BatchCounts:
    """Count completion tokens and sequences over all ranks: what every token weight divides by. Collective."""
    tokens = sum(len(s.completion_ids) for s in batch.sequences)
    both = reduce(torch.tensor([tokens, len(batch.sequences)], dtype=torch.float32, device=device), "sum")
    return BatchCounts(max(int(both[0]), 1), max(int(both[1]), 1), norm_length or 1)


def entropy_threshold(
    policy: PolicyModel,
    token_loss: TokenLoss,
    micros: Sequence[MicroBatch | None],
    batches: Sequence[MicroBatch],
    temperature: float,
) -> Tensor | None:
    """Compute the quantile of all ranks' entropies that the loss asks for, None if it asks for none. Collective.

    The threshold is known before the first backward pass, so how a step is cut into micro-batches changes nothing. It costs a
    forward pass of the step.

    Args:
        micros: this rank's, None where it has run out before others.
        batches: the same with dummies in their place: the passes of a sharded policy are collective.
    """
    quantile = entropy_quantile(token_loss)
    if quantile is None:
        return None
    with torch.no_grad():
        entropies = [policy(batch, temperature)[1] for batch in batches]
    local = [
        (e if micro.loss_mask is None else e[micro.loss_mask]).cpu()
        for e, micro in zip(entropies, micros, strict=True)
        if micro is not None
    ]
    everywhere = torch.cat([e for part in gather(local) for e in part] or [torch.zeros(0)])
    everywhere = everywhere if len(everywhere) else torch.zeros(1)  # a step without a token
    return step_quantile(everywhere, quantile).to(batches[0].targets.device)


def microbatch_loss(
    policy: PolicyModel,
    token_loss: TokenLoss,
    micro: MicroBatch,
    temperature: float,
    normalisation: Normalisation,
    counts: BatchCounts,
    ref_logprobs: Tensor | None,
    entropy_threshold: Tensor | None = None,
    state: LossState | None = None,
) -> tuple[Tensor, LossMetrics]:
    """Run the policy on a micro-batch; return its share of the step's loss (0-d, differentiable) and its metrics."""
    logprobs, entropy = policy(micro, temperature)
    inputs = loss_inputs(
        logprobs,
        micro.old_logprobs,
        micro.advantages,
        sequence_weights(micro.lengths, normalisation, counts)[micro.row],
        micro.row,
        micro.lengths,
        mask=micro.loss_mask,
        importance_weights=micro.importance_weights,
        entropy=entropy,
        ref_logprobs=ref_logprobs,
        entropy_threshold=entropy_threshold,
        state=state,
    )
    output = token_loss(inputs)
    if not isinstance(output, LossOutput):
        raise ConfigError(
            f"the loss {type(token_loss).__name__} returned {shown(output)}; expected lit_tpgrpo.LossOutput(loss=...)"
        )
    return output.loss, measure(inputs, output)


def check_finite(value: Tensor, name: str, step: int, round_index: int) -> None:
    """Stop the run at a loss or gradient norm that is not finite.

    Raises:
        NonFiniteLossError: names the optimizer step, counted from 1, and the round.
    """
    if not torch.isfinite(value).all():
        raise NonFiniteLossError(
            f"the {name} is {float(value)} at optimizer step {step}, round {round_index}; "
            "the weights are those of the step before and checkpoints are untouched. Lower the learning rate, or "
            "train in float32, then resume with --ckpt_path"
        )


def log_step(
    module: L.LightningModule,
    totals: LossMetrics,
    gradient: GradientNorm,
    on_policy: bool,
    round_index: int,
    seconds: float,
) -> None:
    """Log a step that was taken, under ``train/`` and ``mismatch/``, and warn of a mismatch."""
    values = totals.values()
    mismatch = {name: values.pop(name) for name in (LOGPROB_GAP, LOGPROB_GAP_MAX)} | {"mismatch/kl": values["kl_old"]}
    metrics: dict[str, Any] = {f"train/{name}": value for name, value in values.items()}
    metrics |= mismatch if on_policy else {}  # with older weights the gap is what training changed
    metrics |= step_metrics(gradient, loss_scaler(module.trainer))
    if on_policy:
        warn_of_mismatch(float(metrics["mismatch/kl"]), round_index)
    rate = module.trainer.optimizers[0].param_groups[0].get("lr")
    metrics |= {} if rate is None else {"train/lr": rate}  # None where the optimizer sets its own
    metrics["train/tokens_per_s"] = float(totals.tokens) / seconds
    module.log_dict(metrics, batch_size=1)
    module.log("loss", metrics["train/loss"], prog_bar=True, logger=False, batch_size=1)
