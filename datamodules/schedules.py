"""The values of ``data.schedule``: how the stages of a round, and rounds and training, follow one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import lightning as L

from lit_tpgrpo.credit.batch.base import BatchStage
from lit_tpgrpo.credit.filters.base import GroupFilter
from lit_tpgrpo.datamodules.ahead import AheadBatchStream, AheadFactory
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling, RefillingFactory
from lit_tpgrpo.datamodules.pipelined import PipelinedBatchStream, PipelinedFactory
from lit_tpgrpo.datamodules.round_factory import RoundFactory
from lit_tpgrpo.datamodules.train_batches import BatchSchedule, TrainBatchStream
from lit_tpgrpo.engines.base import Engine, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import EngineSharing, Judge, RefreshableJudge
from lit_tpgrpo.judges.evidence.base import EvidenceProvider, LearningProvider
from lit_tpgrpo.rollout.correction import Correction
from lit_tpgrpo.rollout.evidence import uses_engine
from lit_tpgrpo.rollout.monitors import check_measured_weights
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.step_cuts import StepSizes
from lit_tpgrpo.rollout.streaming import StreamedRoundMaker

ScheduleName = Literal["serial", "streamed", "pipelined", "ahead"]


@dataclass(frozen=True)
class Parts:
    """What a schedule must be able to bring into its order; the fields are arguments of ``MathRolloutDataModule``."""

    engine: Engine
    judge: Judge
    evidence: Sequence[EvidenceProvider]
    dynamic_sampling: DynamicSampling | None
    group_filter: GroupFilter | None
    batch_stage: BatchStage | None
    correction: Correction | None
    sampling: SamplingParams
    step_sizes: StepSizes | None


class Serial:
    """One stage after another; a round is made when the last one is used up."""

    maker: ClassVar[type[RoundMaker]] = RoundMaker
    rounds_ahead: ClassVar[int] = 0
    step_sizes: ClassVar[StepSizes] = "even"
    """Unless ``data.step_sizes`` says otherwise."""

    def check(self, parts: Parts) -> None:
        """Check that the parts of a run can work in this order.

        Raises:
            ConfigError: they cannot.
        """

    def check_callbacks(self, trainer: L.Trainer, corrected: bool) -> None:
        """Check that the Trainer's callbacks get what they wait for.

        Args:
            trainer: of the run.
            corrected: whether log-probs of rounds are corrected.

        Raises:
            ConfigError: they do not.
        """

    def share_engine(self, judge: Judge, sampler: Engine) -> None:
        """Let a judge that samples its replies do so with the rollout engine, if that is free when it judges."""
        if isinstance(judge, EngineSharing):
            judge.share_engine(sampler)

    def correction(self, given: Correction, engine: Engine) -> Correction | None:
        """Return how the log-probs of rounds are corrected, None for not at all."""
        return given.for_engine(engine)

    def factory(self, dynamic: DynamicSampling | None) -> Callable[..., RoundFactory]:
        """Return what makes the rounds, called with the arguments of ``RoundFactory``."""
        return RoundFactory if dynamic is None else partial(RefillingFactory, dynamic=dynamic)

    def batches(self, rounds: RoundFactory, **settings: Any) -> BatchSchedule:
        """Return what cuts the rounds into batches; ``settings`` are the arguments of ``TrainBatchStream`` after the first."""
        return TrainBatchStream(rounds.make, **settings)


class Streamed(Serial):
    """Solutions are verified and judged while others are being sampled."""

    maker = StreamedRoundMaker

    def check(self, parts: Parts) -> None:
        """Raise if solutions would be judged before dynamic sampling knows which groups it drops."""
        if parts.dynamic_sampling is not None:
            raise ConfigError(
                "data.schedule streamed cannot be combined with data.dynamic_sampling: the judge is asked once a round, when "
                "it is known which groups are dropped. Leave one of them out"
            )

    def share_engine(self, judge: Judge, sampler: Engine) -> None:
        """Share nothing: the engine is at work."""


def _concurrent_fault(parts: Parts) -> str | None:
    """Return why the trainer cannot work while a round is being made, None if it can."""
    judge = parts.judge
    if not getattr(parts.engine, "concurrent", False):
        return (
            f"needs an engine that samples from its own copy of the weights while the trainer changes its own, as "
            f"VLLMServer does; {type(parts.engine).__name__} does not"
        )
    if parts.dynamic_sampling is not None:
        return (
            "cannot be combined with data.dynamic_sampling: how many problems a round takes is not known before its end"
        )
    if isinstance(judge, RefreshableJudge) and judge.needs_policy:
        return "cannot be combined with a policy that judges itself: it would judge on the trainer's devices meanwhile"
    if uses_engine(parts.evidence):
        return "cannot be combined with evidence that is sampled: the engine is at work when its turn comes"
    return None


def _whole_round_fault(parts: Parts) -> str | None:
    """Return which part needs the whole round before its first step, None if none does."""
    if parts.step_sizes == "even":
        return "cannot be combined with data.step_sizes even, which depend on how many solutions the whole round keeps"
    for name in ("group_filter", "batch_stage"):
        if getattr(parts, name) is not None:
            return f"cannot be combined with data.{name}, which needs the whole round"
    for provider in parts.evidence:
        if isinstance(provider, LearningProvider):
            name = type(provider).__name__
            return f"cannot be combined with {name}, which learns from the whole round before it gives evidence"
    if parts.correction is not None and parts.sampling.cuts_distribution:
        return (
            "cannot be combined with top_p or top_k of data.sampling where log-probs are corrected: what they leave of the "
            "distribution is measured over the whole round"
        )
    return None


class Pipelined(Streamed):
    """As ``Streamed``, and the trainer begins with a round's first steps; see ``lit_tpgrpo.datamodules.pipelined``."""

    step_sizes = "full"

    def check(self, parts: Parts) -> None:
        """Raise if a part needs weights that are gone, or all of a round, when its turn comes."""
        if (why := _concurrent_fault(parts) or _whole_round_fault(parts)) is not None:
            raise ConfigError(f"data.schedule pipelined {why}. Change that, or take data.schedule streamed or serial")

    def check_callbacks(self, trainer: L.Trainer, corrected: bool) -> None:
        check_measured_weights(trainer, "pipelined", corrected)

    def factory(self, dynamic: DynamicSampling | None) -> Callable[..., PipelinedFactory]:
        return PipelinedFactory

    def batches(self, rounds: RoundFactory, **settings: Any) -> BatchSchedule:
        assert isinstance(rounds, PipelinedFactory)
        return PipelinedBatchStream(rounds, **settings)


class Ahead(Streamed):
    """As ``Streamed``, and all of that while the trainer works on the round before; see ``lit_tpgrpo.datamodules.ahead``."""

    rounds_ahead = 1

    def check(self, parts: Parts) -> None:
        """Raise if a part needs weights that are gone, or are not there yet, when its turn comes."""
        if (why := _concurrent_fault(parts)) is not None:
            raise ConfigError(f"data.schedule ahead {why}. Change that, or take data.schedule serial")

    def correction(self, given: Correction, engine: Engine) -> Correction | None:
        """Return the correction; ``auto`` corrects any engine: the weights that sampled are not those in training."""
        method = "token_truncate" if given.method == "auto" else given.method
        return replace(given, method=method).for_engine(engine)

    def check_callbacks(self, trainer: L.Trainer, corrected: bool) -> None:
        check_measured_weights(trainer, "ahead", corrected)

    def factory(self, dynamic: DynamicSampling | None) -> Callable[..., AheadFactory]:
        return AheadFactory

    def batches(self, rounds: RoundFactory, **settings: Any) -> BatchSchedule:
        assert isinstance(rounds, AheadFactory)
        return AheadBatchStream(rounds, **settings)


SCHEDULES: dict[ScheduleName, Serial] = {
    "serial": Serial(),
    "streamed": Streamed(),
    "pipelined": Pipelined(),
    "ahead": Ahead(),
}
