"""Round hooks: events of the rollouts that the trainer's callbacks receive besides Lightning's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import lightning as L

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Judge
from lit_tpgrpo.records import EvaluatedGroup, JudgedGroup, Problem, Round
from lit_tpgrpo.rollout.capability import Capability
from lit_tpgrpo.rollout.trainer_state import callbacks_of

if TYPE_CHECKING:
    from lit_tpgrpo.evaluation.sets import SetSampling

Split = Literal["val", "test", "predict"]


@runtime_checkable
class RolloutSource(Protocol):
    """The part of the DataModule that our callbacks use."""

    capability: Capability
    judge: Judge
    progress: bool

    def problems(self, split: str) -> Sequence[Problem]: ...

    def heldout_sampling(self, split: str) -> Mapping[str, SetSampling]: ...

    def evaluate(self, split: Split, limit: int | float | None = None) -> Iterator[EvaluatedGroup]: ...

    def invalidate_verdicts(self) -> None: ...


def rollout_source(trainer: L.Trainer, caller: object) -> RolloutSource:
    """Return the trainer's DataModule after checking that it makes rollouts.

    Raises:
        ConfigError: there is none, or it makes no rollouts.
    """
    source = getattr(trainer, "datamodule", None)
    if not isinstance(source, RolloutSource):
        raise ConfigError(
            f"{type(caller).__name__} works on the rollouts of a MathRolloutDataModule, but the trainer has "
            f"{type(source).__name__ if source is not None else 'no DataModule'}; pass one to trainer.fit(datamodule=...)"
        )
    return source


def shows_bars(trainer: L.Trainer, progress: bool) -> bool:
    """Return whether this rank shows progress bars of sampling and judging: only if the trainer shows one, too."""
    return progress and trainer.is_global_zero and trainer.progress_bar_callback is not None


class RoundCallback(L.Callback):
    """A Lightning callback with round hooks; override those you need.

    A callback of another class that has a method of one of these names is called as well.
    """

    def on_round_start(self, trainer: L.Trainer, pl_module: L.LightningModule, round_index: int) -> None:
        """Called before a round is sampled, with the policy that will sample it."""

    def on_round_resume(self, trainer: L.Trainer, pl_module: L.LightningModule, round_index: int) -> None:
        """Called in the place of ``on_round_start`` before a round that an interrupted run began is taken up again."""

    def on_group_judged(self, trainer: L.Trainer, pl_module: L.LightningModule, group: JudgedGroup) -> None:
        """Called after a group's last verdict, before credit is assigned to it.

        Not called for a group whose solutions are all UNDECIDED: it has no accuracy.
        """

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, round_: Round) -> None:
        """Called when the round is ready to be trained on, with this rank's share of it."""


def call_round_hook(trainer: L.Trainer, name: str, *args: Any) -> None:
    """Call a round hook on every callback of the trainer that has it, in the trainer's order."""
    for callback in callbacks_of(trainer):
        hook = getattr(callback, name, None)
        if hook is not None:
            hook(trainer, trainer.lightning_module, *args)
