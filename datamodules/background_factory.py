"""What schedules share that sample a round in the background, with weights that lie beside it until it is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lit_tpgrpo.background import BackgroundWork
from lit_tpgrpo.datamodules.round_factory import RoundFactory, RoundPlan, is_incomplete
from lit_tpgrpo.distributed import gather, raise_on_all_ranks
from lit_tpgrpo.engines.base import Interruptible
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.sampling_weights import StoredPolicy, store_weights, weights_path
from lit_tpgrpo.rollout.trainer_state import is_out_of_time, takes_last_step
from lit_tpgrpo.rollout.verifying import VerifiedGroups
from lit_tpgrpo.signals import STOP, unless_out_of_time

Sample = Callable[[RoundMaker, RoundPlan], VerifiedGroups]
"""Samples, verifies and judges this rank's share of a round with the maker that it is given."""


@dataclass
class Background:
    """The round that is being sampled."""

    plan: RoundPlan | None = None
    work: BackgroundWork[VerifiedGroups] | None = None


@dataclass(frozen=True)
class BackgroundFactory(RoundFactory):
    """Sample, verify and judge a round in a thread. Nothing else uses engine, verifier and judge until it is done.

    The main thread alone takes part in collectives. The engine must be ``concurrent`` (see ``Engine``).
    """

    _background: Background = field(default_factory=Background)

    def launch(self, plan: RoundPlan, sample: Sample) -> BackgroundWork[VerifiedGroups]:
        """Sample a round in the background."""
        work = BackgroundWork(lambda check: _quietly(plan, sample, check), STOP.check, f"round-{plan.index}")
        self._background.plan, self._background.work = plan, work
        return work

    # ---- weights ----

    def load_weights(self, plan: RoundPlan) -> None:
        """Write the weights that sample the round beside it, unless they are there, and load them into the engine."""
        if not any(gather(is_incomplete(plan))):  # nothing is sampled, and they may be gone
            super().load_weights(plan)
            return
        path = weights_path(plan.file.folder)
        if plan.version == self.policy.policy_version and not all(gather(path.is_file())):
            store_weights(self.trainer, self.policy, path)
        plan.maker.engine.load_weights(StoredPolicy(self.policy, plan.version, path))

    def is_lost(self, plan: RoundPlan) -> bool:
        """Return whether groups of the plan are not on disk, on any rank, and neither are the weights that sample them."""
        if plan.version == self.policy.policy_version:
            return False
        missing, has_weights = zip(
            *gather((is_incomplete(plan), weights_path(plan.file.folder).is_file())), strict=True
        )
        return any(missing) and not all(has_weights)

    # ---- other users of the engine, and shutdown ----

    def wait(self) -> None:
        """Return when no round is being sampled. Collective.

        At the end of the run the round is left as it is: the run will not get to it, and one that is resumed continues it.
        """
        work = self._background.work
        if work is None:
            return

        def waited() -> bool:
            work.wait(STOP.check)
            return True

        with (
            raise_on_all_ranks("waiting for the round that is being sampled"),
            STOP.until(lambda: is_out_of_time(self.trainer)),
        ):
            ended = not takes_last_step(self.trainer) and unless_out_of_time(waited)
        if not all(gather(bool(ended))):
            self.close()

    def close(self, at_once: bool = False) -> None:
        """Stop sampling; what is complete is stored. ``at_once``: do not wait until it has stopped."""
        work, self._background.plan, self._background.work = self._background.work, None, None
        if work is not None:
            work.cancel(wait=not at_once)

    def stop_engine(self, plan: RoundPlan) -> None:
        self.close()
        super().stop_engine(plan)


def sample_round(maker: RoundMaker, plan: RoundPlan) -> VerifiedGroups:
    """Sample, verify and judge this rank's share of a round."""
    return maker.sample(plan.index, plan.assignments, plan.file, plan.version)


def _quietly(plan: RoundPlan, sample: Sample, check: Callable[[], None]) -> VerifiedGroups:
    """Sample in a thread, so without bars; ``check`` ends it."""
    maker: RoundMaker = replace(plan.maker, check=check, show_progress=False)
    if not isinstance(maker.engine, Interruptible):
        return sample(maker, plan)
    before, maker.engine.while_waiting = maker.engine.while_waiting, check
    try:
        return sample(maker, plan)
    finally:
        maker.engine.while_waiting = before
