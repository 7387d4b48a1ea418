"""Refuse, before anything is sampled, Lightning's options and callbacks that cannot work with a manually optimised step."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)

from lit_tpgrpo.errors import ConfigError

_REFUSED: dict[type[L.Callback], str] = {
    StochasticWeightAveraging: (
        "it averages whole epochs, of which a run has one, and takes the learning rate over; use "
        "lightning.pytorch.callbacks.WeightAveraging, which averages steps"
    ),
    GradientAccumulationScheduler: (
        "a step accumulates its micro-batches itself; use data.problems_per_step with model.tokens_per_microbatch"
    ),
    BatchSizeFinder: "the size of a forward pass is model.tokens_per_microbatch: halve it where memory runs out",
    LearningRateFinder: (
        "a loss measured on rounds of its own weights says nothing of a learning rate, and each try samples a round; set "
        "model.optimizer's lr"
    ),
    ModelPruning: "it looks for weights before the policy is built, and an engine would sample from the unpruned ones",
}


def check_trainer(trainer: L.Trainer, compiled: bool) -> None:
    """Refuse what has no effect on a manually optimised step or would break it.

    Args:
        trainer: before it starts.
        compiled: whether the whole module went through ``torch.compile``.

    Raises:
        ConfigError: naming the replacement.
    """
    clipping = trainer.gradient_clip_val is not None or trainer.gradient_clip_algorithm is not None
    if clipping or trainer.accumulate_grad_batches != 1:
        raise ConfigError(
            "trainer.gradient_clip_val, trainer.gradient_clip_algorithm and trainer.accumulate_grad_batches have no effect on "
            "this module, which optimises manually; use model.max_grad_norm, and data.problems_per_step with "
            "model.tokens_per_microbatch, instead"
        )
    if compiled:
        raise ConfigError(
            "TPGRPOModule cannot go through torch.compile as a whole: its training step holds the backward pass and the "
            "optimizer's step, which a graph cannot; give the Trainer the module itself"
        )
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                raise ConfigError(f"{kind.__name__} does not work with TPGRPOModule: {reason}")
