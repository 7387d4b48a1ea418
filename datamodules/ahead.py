"""Rounds ahead: the next round is sampled, verified and judged in the background while the trainer works on this one.

Round k is sampled with the weights with which training on round k - 1 begins, round 0 with the initial ones, whatever takes how
long. In the order of the main thread, which alone takes part in collectives:

1. wait for round k; credit, score and report it (``make``);
2. call ``on_round_start`` for round k + 1, choose its problems, write the weights that sample it beside it, and load them into
   the engine (``begin``);
3. train on round k, while a thread samples, verifies and judges round k + 1 and stores what is complete; not if the run ends
   with round k.

Nothing but that thread uses engine, verifier and judge until it is done: an evaluation waits for it. A resumed run continues
round k + 1 with the weights beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lit_tpgrpo.background import BackgroundWork
from lit_tpgrpo.datamodules.round_factory import RoundFactory, RoundPlan, is_incomplete
from lit_tpgrpo.datamodules.train_batches import TrainBatchStream
from lit_tpgrpo.distributed import gather, raise_on_all_ranks
from lit_tpgrpo.engines.base import Interruptible
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.reference import needs_reference
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.sampling_weights import StoredPolicy, store_weights, weights_path
from lit_tpgrpo.rollout.summary import RoundTally
from lit_tpgrpo.rollout.trainer_state import is_out_of_time, sampling_precision, steps_left, takes_last_step
from lit_tpgrpo.rollout.verifying import VerifiedGroups
from lit_tpgrpo.signals import STOP, unless_out_of_time


@dataclass(frozen=True)
class RoundOrigin:
    """Which weights a round is of.

    Attributes:
        version: policy version that samples it.
        sampled_by: fingerprint of these weights.
        trained_from: policy version with which training on it begins; -1 while it is not known.
        scored_by: fingerprint of these weights, with which its solutions are scored; "" if nothing is.
    """

    version: int
    sampled_by: str
    trained_from: int = -1
    scored_by: str = ""


@dataclass
class _Progress:
    """What changes from round to round: origins by round, and the round that is being sampled."""

    origins: dict[int, RoundOrigin] = field(default_factory=dict)
    plan: RoundPlan | None = None
    work: BackgroundWork[VerifiedGroups] | None = None


@dataclass(frozen=True)
class AheadFactory(RoundFactory):
    """Make rounds and begin the next ones, see the module. The engine must be ``concurrent`` (see ``Engine``)."""

    _progress: _Progress = field(default_factory=_Progress)

    def make(self, index: int, cursor: int, version: int | None) -> Round:
        """Make round ``index`` from what is sampled of it; see ``RoundFactory.make``. ``begin`` is to follow."""
        origins = self._progress.origins
        if (
            version is not None
        ):  # of a checkpoint of another schedule: it is trained on with the weights that sampled it
            origins.setdefault(index, RoundOrigin(version, self.store.sampled_by, version))
        plan, work = self._sampling(index, cursor)
        asked = time.perf_counter()
        try:
            verified = self.interruptible(plan, lambda: work.result(STOP.check))
        finally:
            if work.failed:  # sampled again, if this is not the end of the run
                self._progress.plan = self._progress.work = None
        waited = time.perf_counter() - asked
        self._forget_weights(plan)
        trained_from = self._trained_from(plan)
        metrics = {"ahead/staleness": float(trained_from - plan.version), "ahead/wait_seconds": max(gather(waited))}
        with sampling_precision(self.trainer):
            round_, tally = self.complete(plan, plan.assignments, verified)
            round_ = self.finish(plan, replace(round_, trained_from=trained_from, metrics=metrics), tally)
        self._progress.plan = self._progress.work = None
        origins[index] = replace(origins[index], trained_from=trained_from)
        return round_

    def begin(self, index: int, cursor: int, steps: int) -> None:
        """Begin round ``index``, and to sample it unless the run ends before it. Collective.

        What a run that ends leaves is what one with more steps, resumed from it, needs to sample it with the same weights.

        Args:
            index: of the round.
            cursor: problems that earlier rounds have consumed, over all ranks.
            steps: optimizer steps that are left of the round before.
        """
        plan = self._plan(index, cursor)
        if steps < steps_left(self.trainer):
            self._launch(plan)
        origins = self._progress.origins
        self.store.sampled_by = origins[index - 1].sampled_by  # of the round that is trained on, as in other schedules
        for old in [i for i in origins if i < index - 1]:
            del origins[old]

    def _sampling(self, index: int, cursor: int) -> tuple[RoundPlan, BackgroundWork[VerifiedGroups]]:
        """Return the round that is being sampled; begin with it if it is none yet."""
        plan, work = self._progress.plan, self._progress.work
        if plan is not None and work is not None and plan.index == index:
            return plan, work
        plan = self._plan(index, cursor)
        return plan, self._launch(plan)

    def _plan(self, index: int, cursor: int) -> RoundPlan:
        """Open a round that the current weights sample, or continue with those that began it. Collective."""
        self.close()
        origin = self._progress.origins.get(index)
        if origin is not None and origin.version == self.policy.policy_version:
            # A second ``fit`` in this process counts its steps from 0 again.
            origin = origin if origin.sampled_by == fingerprint(self.policy.named_tensors()) else None
        if origin is not None:
            self.store.sampled_by = origin.sampled_by
        plan = self.plan(index, cursor, None if origin is None else origin.version)
        if origin is None or plan.version != origin.version:  # new, or lost and sampled again
            self._progress.origins[index] = RoundOrigin(plan.version, self.store.sampled_by)
        return plan

    def _launch(self, plan: RoundPlan) -> BackgroundWork[VerifiedGroups]:
        """Sample a round in the background."""
        work = BackgroundWork(partial(_sample, plan), STOP.check, f"round-{plan.index}")
        self._progress.plan, self._progress.work = plan, work
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

    def _forget_weights(self, plan: RoundPlan) -> None:
        with raise_on_all_ranks(f"round {plan.index}"):
            if self.trainer.local_rank == 0:
                weights_path(plan.file.folder).unlink(missing_ok=True)

    def is_new(self, plan: RoundPlan) -> bool:
        """Return whether training on the round has not begun; the policy's log-probs are then its old ones."""
        return self._trained_from(plan) == self.policy.policy_version

    def _trained_from(self, plan: RoundPlan) -> int:
        known = self._progress.origins[plan.index].trained_from
        return self.policy.policy_version if known < 0 else known

    def complete(
        self,
        plan: RoundPlan,
        assignments: Sequence[Assignment],
        verified: VerifiedGroups,
        dropped: Collection[int] = (),
    ) -> tuple[Round, RoundTally]:
        """Judge and credit verified groups, with scores of the weights with which training on them begins alone."""
        if self.correction is not None or needs_reference(plan.maker.credit):
            origins = self._progress.origins
            if self.is_new(plan):
                scored_by = fingerprint(self.policy.named_tensors())
                origins[plan.index] = replace(origins[plan.index], scored_by=scored_by)
            if scored_by := origins[plan.index].scored_by:  # "": see ``make``
                self.store.match_scores(self.trainer, plan.file, scored_by)
        return super().complete(plan, assignments, verified, dropped)

    # ---- other users of the engine, state and shutdown ----

    def wait(self) -> None:
        """Return when no round is being sampled. Collective.

        At the end of the run the round is left as it is: the run will not get to it, and one that is resumed continues it.
        """
        work = self._progress.work
        if work is None:
            return

        def waited() -> bool:
            work.wait(STOP.check)
            return True

        with (
            raise_on_all_ranks("waiting for the round that is sampled ahead"),
            STOP.until(lambda: is_out_of_time(self.trainer)),
        ):
            ended = not takes_last_step(self.trainer) and unless_out_of_time(waited)
        if not all(gather(bool(ended))):
            self.close()

    def close(self, at_once: bool = False) -> None:
        """Stop sampling; what is complete is stored. ``at_once``: do not wait until it has stopped."""
        work, self._progress.plan, self._progress.work = self._progress.work, None, None
        if work is not None:
            work.cancel(wait=not at_once)

    def state_dict(self) -> dict[str, Any]:
        """Return the origins of the current round and of the one after it."""
        origins = sorted(self._progress.origins.items())
        return {"origins": [[i, o.version, o.sampled_by, o.trained_from, o.scored_by] for i, o in origins]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.close()
        self._progress.origins.clear()
        self._progress.origins.update({index: RoundOrigin(*of) for index, *of in state.get("origins", [])})


class AheadBatchStream(TrainBatchStream):
    """``TrainBatchStream`` over an ``AheadFactory``: the next round is made while the batches of this one are trained on."""

    def __init__(self, rounds: AheadFactory, **settings: Any) -> None:
        super().__init__(rounds.make, **settings)
        self._rounds = rounds

    def _load(self, round_: Round, index: int, cursor: int, position: int, trained_from: int | None = None) -> None:
        super()._load(round_, index, cursor, position, trained_from)
        self._rounds.begin(index + 1, cursor + self._consumed, self._n_steps - position)

    def state_dict(self, version: int) -> dict[str, Any]:
        return super().state_dict(version) | self._rounds.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._rounds.load_state_dict(state)

    def wait(self) -> None:
        """Return when engine, verifier and judge are free. Collective."""
        self._rounds.wait()

    def close(self, at_once: bool = False) -> None:
        """End the work in the background."""
        self._rounds.close(at_once)


def _sample(plan: RoundPlan, check: Callable[[], None]) -> VerifiedGroups:
    """Sample, verify and judge this rank's share of a round; in a thread, so without bars and collectives."""
    maker: RoundMaker = replace(plan.maker, check=check, show_progress=False)
    if not isinstance(maker.engine, Interruptible):
        return maker.sample(plan.index, plan.assignments, plan.file, plan.version)
    before, maker.engine.while_waiting = maker.engine.while_waiting, check
    try:
        return maker.sample(plan.index, plan.assignments, plan.file, plan.version)
    finally:
        maker.engine.while_waiting = before
