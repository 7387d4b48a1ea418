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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from lit_tpgrpo.background import BackgroundWork
from lit_tpgrpo.datamodules.background_factory import BackgroundFactory, sample_round
from lit_tpgrpo.datamodules.round_factory import RoundPlan
from lit_tpgrpo.datamodules.train_batches import CutRound, TrainBatchStream
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.reference import needs_reference
from lit_tpgrpo.rollout.summary import RoundTally
from lit_tpgrpo.rollout.trainer_state import sampling_precision, steps_left
from lit_tpgrpo.rollout.verifying import VerifiedGroups
from lit_tpgrpo.signals import STOP


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


@dataclass(frozen=True)
class AheadFactory(BackgroundFactory):
    """Make rounds and begin the next ones, see the module."""

    _origins: dict[int, RoundOrigin] = field(default_factory=dict)
    """By round."""

    def make(self, index: int, cursor: int, version: int | None) -> Round:
        """Make round ``index`` from what is sampled of it; see ``RoundFactory.make``. ``begin`` is to follow."""
        origins = self._origins
        if (
            version is not None
        ):  # of a checkpoint of another schedule: it is trained on with the weights that sampled it
            origins.setdefault(index, RoundOrigin(version, self.store.sampled_by, version))
        plan, work = self._sampling(index, cursor)
        self.note(plan, seen=plan.version == version)
        asked = time.perf_counter()
        try:
            verified = self.interruptible(plan, lambda: work.result(STOP.check))
        finally:
            if work.failed:  # sampled again, if this is not the end of the run
                self._background.plan = self._background.work = None
        waited = time.perf_counter() - asked
        trained_from = self._trained_from(plan)
        metrics = {"ahead/staleness": float(trained_from - plan.version), "ahead/wait_seconds": max(gather(waited))}
        with sampling_precision(self.trainer):
            round_, tally = self.complete(plan, plan.assignments, verified)
            round_ = self.finish(plan, replace(round_, trained_from=trained_from, metrics=metrics), tally)
        self._background.plan = self._background.work = None
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
            self.launch(plan, sample_round)
        origins = self._origins
        self.store.sampled_by = origins[index - 1].sampled_by  # of the round that is trained on, as in other schedules
        for old in [i for i in origins if i < index - 1]:
            del origins[old]

    def _sampling(self, index: int, cursor: int) -> tuple[RoundPlan, BackgroundWork[VerifiedGroups]]:
        """Return the round that is being sampled; begin with it if it is none yet."""
        plan, work = self._background.plan, self._background.work
        if plan is not None and work is not None and plan.index == index:
            return plan, work
        plan = self._plan(index, cursor)
        return plan, self.launch(plan, sample_round)

    def _plan(self, index: int, cursor: int) -> RoundPlan:
        """Open a round that the current weights sample, or continue with those that began it. Collective."""
        self.close()
        origin = self._origins.get(index)
        if origin is not None and origin.version == self.policy.policy_version:
            # A second ``fit`` in this process counts its steps from 0 again.
            origin = origin if origin.sampled_by == fingerprint(self.policy.named_tensors()) else None
        if origin is not None:
            self.store.sampled_by = origin.sampled_by
        plan = self.plan(index, cursor, None if origin is None else origin.version)
        if origin is None or plan.version != origin.version:  # new, or lost and sampled again
            self._origins[index] = RoundOrigin(plan.version, self.store.sampled_by)
        return plan

    def is_new(self, plan: RoundPlan) -> bool:
        """Return whether training on the round has not begun; the policy's log-probs are then its old ones."""
        return self._trained_from(plan) == self.policy.policy_version

    def has_old_weights(self, plan: RoundPlan) -> bool:
        return self.is_new(plan)

    @contextmanager
    def old_weights(self, plan: RoundPlan) -> Iterator[bool]:
        """As in ``RoundFactory``; the weights beside the round are the old ones of a round that a pipelined run began."""
        if not self.is_new(plan) and self._trained_from(plan) != plan.version:
            yield False
            return
        with super().old_weights(plan) as there:
            yield there

    def _trained_from(self, plan: RoundPlan) -> int:
        known = self._origins[plan.index].trained_from
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
            origins = self._origins
            if self.is_new(plan):
                scored_by = fingerprint(self.policy.named_tensors())
                origins[plan.index] = replace(origins[plan.index], scored_by=scored_by)
            if scored_by := origins[plan.index].scored_by:  # "": see ``make``
                self.store.match_scores(self.trainer, plan.file, scored_by)
        return super().complete(plan, assignments, verified, dropped)

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Return the origins of the current round and of the one after it."""
        origins = sorted(self._origins.items())
        return {"origins": [[i, o.version, o.sampled_by, o.trained_from, o.scored_by] for i, o in origins]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.close()
        self._origins.clear()
        self._origins.update({index: RoundOrigin(*of) for index, *of in state.get("origins", [])})


class AheadBatchStream(TrainBatchStream):
    """``TrainBatchStream`` over an ``AheadFactory``: the next round is made while the batches of this one are trained on."""

    def __init__(self, rounds: AheadFactory, **settings: Any) -> None:
        super().__init__(rounds.make, **settings)
        self._rounds = rounds

    def _turn_to(
        self, current: CutRound, index: int, cursor: int, version: int | None, trained_from: int, consumed: int
    ) -> None:
        super()._turn_to(current, index, cursor, version, trained_from, consumed)
        self._rounds.begin(index + 1, cursor + consumed, self._n_steps - self._position)

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
