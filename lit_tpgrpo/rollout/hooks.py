"""Round hooks: what the DataModule tells the trainer's callbacks besides Lightning's own events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import lightning as L

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Judge
from lit_tpgrpo.records import EvaluatedGroup, JudgedGroup, Problem, Round
from lit_tpgrpo.rollout.rounds import Capability

Split = Literal["val", "test", "predict"]


@runtime_checkable
class RolloutSource(Protocol):
    """What our callbacks ask of the trainer's DataModule."""

    capability: Capability
    judge: Judge
    eval_samples: int
    progress: bool

    def problems(self, split: str) -> Sequence[Problem]: ...

    def evaluate(self, split: Split, limit: int | None = None) -> Iterator[EvaluatedGroup]: ...

    def invalidate_verdicts(self) -> None: ...


def rollout_source(trainer: L.Trainer, asker: object) -> RolloutSource:
    """The trainer's DataModule, checked.

    Raises:
        ConfigError: there is none, or it makes no rollouts.
    """
    source = getattr(trainer, "datamodule", None)
    if not isinstance(source, RolloutSource):
        raise ConfigError(
            f"{type(asker).__name__} works on the rollouts of a MathRolloutDataModule, but the trainer has "
            f"{type(source).__name__ if source is not None else 'no DataModule'}; pass one to trainer.fit(datamodule=...)"
        )
    return source


def shows_bars(trainer: L.Trainer, progress: bool) -> bool:
    """Whether this process shows bars of sampling and judging: where they are wanted and the trainer has one too."""
    return progress and trainer.is_global_zero and trainer.progress_bar_callback is not None


class RoundCallback(L.Callback):
    """A Lightning callback with round hooks; override what you need. Any callback that merely has a method of one of
    these names is called too."""

    def on_round_start(self, trainer: L.Trainer, pl_module: L.LightningModule, round_index: int) -> None:
        """Before sampling, with the policy that will sample."""

    def on_group_judged(self, trainer: L.Trainer, pl_module: L.LightningModule, group: JudgedGroup) -> None:
        """After a group's last verdict, before credit is assigned to the next group. Not for a group without a decided
        solution: it has no accuracy."""

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, made: Round) -> None:
        """When the round is ready to train on."""


def call_round_hook(trainer: L.Trainer, name: str, *args: Any) -> None:
    """Call a round hook on every callback of the trainer that has it, in the trainer's order."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        hook = getattr(callback, name, None)
        if hook is not None:
            hook(trainer, trainer.lightning_module, *args)
