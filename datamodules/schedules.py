"""The values of ``data.schedule``: how the stages of a round, and rounds and training, follow one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

from lit_tpgrpo.datamodules.ahead import AheadBatchStream, AheadFactory
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling, RefillingFactory
from lit_tpgrpo.datamodules.round_factory import RoundFactory
from lit_tpgrpo.datamodules.train_batches import BatchSchedule, TrainBatchStream
from lit_tpgrpo.engines.base import Engine
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import EngineSharing, Judge, RefreshableJudge
from lit_tpgrpo.judges.evidence.base import EvidenceProvider
from lit_tpgrpo.rollout.correction import Correction
from lit_tpgrpo.rollout.evidence import uses_engine
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.streaming import StreamedRoundMaker

ScheduleName = Literal["serial", "streamed", "ahead"]


class Serial:
    """One stage after another; a round is made when the last one is used up."""

    maker: ClassVar[type[RoundMaker]] = RoundMaker
    rounds_ahead: ClassVar[int] = 0

    def check(
        self, engine: Engine, judge: Judge, evidence: Sequence[EvidenceProvider], dynamic: DynamicSampling | None
    ) -> None:
        """Check that the parts of a run can work in this order.

        Raises:
            ConfigError: they cannot.
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

    def check(
        self, engine: Engine, judge: Judge, evidence: Sequence[EvidenceProvider], dynamic: DynamicSampling | None
    ) -> None:
        """Raise if solutions would be judged before dynamic sampling knows which groups it drops."""
        if dynamic is not None:
            raise ConfigError(
                "data.schedule streamed cannot be combined with data.dynamic_sampling: the judge is asked once a round, when "
                "it is known which groups are dropped. Leave one of them out"
            )

    def share_engine(self, judge: Judge, sampler: Engine) -> None:
        """Share nothing: the engine is at work."""


class Ahead(Streamed):
    """As ``Streamed``, and all of that while the trainer works on the round before; see ``lit_tpgrpo.datamodules.ahead``."""

    rounds_ahead = 1

    def check(
        self, engine: Engine, judge: Judge, evidence: Sequence[EvidenceProvider], dynamic: DynamicSampling | None
    ) -> None:
        """Raise if a part needs weights that are gone, or are not there yet, when its turn comes."""
        why = None
        if not getattr(engine, "concurrent", False):
            why = (
                f"needs an engine that samples from its own copy of the weights while the trainer changes its own, as "
                f"VLLMServer does; {type(engine).__name__} does not"
            )
        elif dynamic is not None:
            why = "cannot be combined with data.dynamic_sampling: how many problems a round takes is not known before its end"
        elif isinstance(judge, RefreshableJudge) and judge.needs_policy:
            why = (
                "cannot be combined with a policy that judges itself: it would judge on the trainer's devices meanwhile"
            )
        elif uses_engine(evidence):
            why = "cannot be combined with evidence that is sampled: the engine is at work when its turn comes"
        if why is not None:
            raise ConfigError(f"data.schedule ahead {why}. Change that, or take data.schedule serial")

    def correction(self, given: Correction, engine: Engine) -> Correction | None:
        """Return the correction; ``auto`` corrects any engine: the weights that sampled are not those in training."""
        method = "token_truncate" if given.method == "auto" else given.method
        return replace(given, method=method).for_engine(engine)

    def factory(self, dynamic: DynamicSampling | None) -> Callable[..., AheadFactory]:
        return AheadFactory

    def batches(self, rounds: RoundFactory, **settings: Any) -> BatchSchedule:
        assert isinstance(rounds, AheadFactory)
        return AheadBatchStream(rounds, **settings)


SCHEDULES: dict[ScheduleName, Serial] = {"serial": Serial(), "streamed": Streamed(), "ahead": Ahead()}
