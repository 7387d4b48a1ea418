"""Pipelined rounds: the trainer works on the first steps of a round while its other groups are being sampled and judged.

All solutions of a round come from the weights with which training on it begins, in whatever order its stages run. So batches
and weights are those of a serial round that is cut into steps in the same way (``rollout.step_cuts.FullSteps``), as far as
engine and trainer give the same numbers for the same input.

In the order of the main thread, which alone takes part in collectives:

1. choose the problems of a round, write the weights that sample it beside it and load them into the engine (``open``); a thread
   samples, verifies and judges it, and stores what is complete;
2. wait until the next ``problems_per_step`` groups are judged; credit and score them (``GrowingRound.grow``), and cut them;
3. train on the steps that are known, then go on with 2. When the last group is there, report the round.

The trainer's weights have changed when it scores later groups: the weights beside the round take their place meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lit_tpgrpo.datamodules.background_factory import BackgroundFactory
from lit_tpgrpo.datamodules.round_factory import RoundPlan
from lit_tpgrpo.datamodules.train_batches import CutRound, TrainBatchStream
from lit_tpgrpo.distributed import gather, raise_on_all_ranks
from lit_tpgrpo.judges.base import Counts
from lit_tpgrpo.records import CreditedSolution, JudgedGroup
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.judged_share import JudgedShare
from lit_tpgrpo.rollout.judged_so_far import JudgedSoFar
from lit_tpgrpo.rollout.mismatch import MismatchTally
from lit_tpgrpo.rollout.reference import needs_reference
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.sampling_weights import store_trained, store_weights, weights_path
from lit_tpgrpo.rollout.streaming import StreamedRoundMaker
from lit_tpgrpo.rollout.trainer_state import sampling_precision
from lit_tpgrpo.rollout.verifying import VerifiedGroups
from lit_tpgrpo.signals import STOP, OutOfTimeError


@dataclass(frozen=True)
class PipelinedFactory(BackgroundFactory):
    """Make rounds of which parts are trained on while the rest is made, see the module.

    Its makers are ``StreamedRoundMaker``, without group filter and batch stage, and their evidence is not sampled.
    """

    def open(
        self, index: int, cursor: int, version: int | None, problems_per_part: int, reported: bool = False
    ) -> GrowingRound:
        """Begin round ``index``, or continue it; see ``RoundFactory.make`` for the first arguments. Collective.

        Args:
            index: of the round.
            cursor: problems that earlier rounds have consumed.
            version: policy version that must have sampled it, None for the current one.
            problems_per_part: over all ranks, that are credited at once.
            reported: whether monitors have looked at the round before.
        """
        self.close()
        plan = self.plan(index, cursor, version)
        self.note(plan, seen=reported and plan.version == version)
        return GrowingRound(self, plan, problems_per_part)

    def load_weights(self, plan: RoundPlan) -> None:
        """Write the weights that sample and score the round beside it, unless they are there, and load them into the engine."""
        if self._scores(plan) and plan.version == self.policy.policy_version:
            path = weights_path(plan.file.folder)
            store_trained(self.trainer, self.policy, plan.file.folder)  # first: it refuses sharded weights
            if not all(gather(path.is_file())):  # also if nothing is to be sampled
                store_weights(self.trainer, self.policy, path)
        super().load_weights(plan)

    def is_stopped(self, plan: RoundPlan) -> bool:
        """Return whether a round was begun and is not being sampled any more, though it is not whole; see ``wait``."""
        return self._background.plan is not plan

    def _scores(self, plan: RoundPlan) -> bool:
        return self.correction is not None or needs_reference(plan.maker.credit)

    def scored(
        self, plan: RoundPlan, groups: Mapping[int, JudgedGroup]
    ) -> tuple[
        Mapping[int, JudgedGroup], dict[int, CreditedSolution], dict[int, CreditedSolution], MismatchTally | None
    ]:
        """Credit judged groups with the weights that sampled them. Collective.

        Returns:
            The groups, with the reference's log-probs if the credit needs them; the credited solutions by index; those of
            them that are kept, with corrected log-probs; sums of the mismatch.
        """
        maker, guard = plan.maker, partial(raise_on_all_ranks, f"round {plan.index}")
        with sampling_precision(self.trainer):
            if needs_reference(maker.credit):
                groups = self.with_reference(plan, groups)
            credited = maker.credited(groups, guard)
            with guard():
                part = maker.credited_round(_share(plan, groups), credited, maker.kept(credited))
            part, mismatch = self.correct(plan, part)
        return groups, credited, dict(zip(part.kept_indices, part.kept, strict=True)), mismatch


class GrowingRound:
    """A round of which more and more is credited while the rest of it is being made.

    Args:
        factory: makes it.
        plan: of the round, with the weights that sample it in the engine.
        problems_per_part: groups over all ranks that are credited at once.

    Attributes:
        plan: of the round.
        whole: whether all of it is credited, and reported to loggers, callbacks and monitors.
    """

    def __init__(self, factory: PipelinedFactory, plan: RoundPlan, problems_per_part: int) -> None:
        self.plan = plan
        self.whole = False
        self._factory = factory
        bounds = range(0, len(plan.problems), problems_per_part)
        self._parts = [
            [a for a in plan.assignments if start <= a.group_index < start + problems_per_part] for start in bounds
        ]
        self._groups: dict[int, JudgedGroup] = {}
        self._credited: dict[int, CreditedSolution] = {}
        self._kept: dict[int, CreditedSolution] = {}
        self._mismatch: MismatchTally | None = None
        self._last: dict[int, CreditedSolution] | None = None  # kept of the last part
        self._waited_s = 0.0
        self._launch()

    def _launch(self) -> None:
        self._judged = JudgedSoFar()
        self._work = self._factory.launch(self.plan, partial(_sample, self._judged))

    def grow(self) -> dict[int, CreditedSolution]:
        """Wait for the next part, credit it, and return this rank's kept solutions of it by index. Collective.

        After the last part the round is reported.

        Raises:
            OutOfTimeError: ``max_time`` was reached; what is complete is stored. May be called again.
        """
        if self._last is None:
            kept = self._next_part()
            if self._parts:
                return kept
            self._last = kept
        self._finish()
        return self._last

    def _next_part(self) -> dict[int, CreditedSolution]:
        interrupted = isinstance(self._work.error, CancelledError | OutOfTimeError)
        if any(gather(interrupted or self._factory.is_stopped(self.plan))):  # an evaluation has loaded its own weights
            self._factory.close()
            self._factory.load_weights(self.plan)
            self._launch()
        assignments = self._parts[0]
        groups = self._factory.interruptible(self.plan, partial(self._judged_part, assignments))
        groups, credited, kept, mismatch = self._factory.scored(self.plan, groups)
        self._groups |= groups
        self._credited |= credited
        self._kept |= kept
        if mismatch is not None:
            self._mismatch = mismatch if self._mismatch is None else self._mismatch + mismatch
        del self._parts[0]
        return kept

    def _judged_part(self, assignments: Sequence[Assignment]) -> dict[int, JudgedGroup]:
        def check() -> None:
            STOP.check()
            self._work.raise_error()

        plan, factory = self.plan, self._factory
        asked = time.perf_counter()
        verified = self._judged.wait_for([a.group_index for a in assignments], check)
        self._waited_s += time.perf_counter() - asked
        groups = plan.maker.judged_groups(
            plan.index, assignments, verified, plan.file, factory.capability(), on_group=factory.on_group
        )
        if not plan.maker.evidence:
            return groups
        return plan.maker.with_evidence(groups, plan.file, plan.version, factory.seed, current=False)

    def _finish(self) -> None:
        """Report the round, when the thread that makes it has ended."""
        plan, factory, maker = self.plan, self._factory, self.plan.maker
        verified = factory.interruptible(plan, lambda: self._work.result(STOP.check))
        factory.forget_weights(plan)
        with raise_on_all_ranks(f"round {plan.index}"):
            share = replace(
                _share(plan, self._groups),
                new_tokens=verified.new_tokens,
                sampling_seconds=verified.sampling_seconds,
                judging_seconds=verified.verifying_seconds,
                verified=verified.checked or Counts(),
                judged=verified.judged or Counts(),
                evidence=sum((Counts(p.metrics()) for p in maker.evidence), Counts()),
            )
            round_ = maker.credited_round(share, self._credited, self._kept)
            tally = maker.tally(round_, share)
        round_ = replace(round_, metrics={"pipelined/wait_seconds": max(gather(self._waited_s))})
        with sampling_precision(factory.trainer):
            factory.publish(plan, round_, tally, self._mismatch)
        self.whole = True


class PipelinedBatchStream(TrainBatchStream):
    """``TrainBatchStream`` over a ``PipelinedFactory``: a batch is there as soon as its solutions are."""

    def __init__(self, rounds: PipelinedFactory, **settings: Any) -> None:
        super().__init__(rounds.make, **settings)
        self._rounds = rounds
        self._growing: GrowingRound | None = None
        self._is_cut = True  # the current round, to its end
        self._reported = False  # likewise, by a run that this one was resumed from

    def _open(self, index: int, cursor: int, version: int | None) -> None:
        """Begin a round and turn to it when its next step is there."""
        group_size = self._rounds.maker().group_size
        reported = version is not None and self._reported
        growing = self._rounds.open(index, cursor, version, max(1, self._solutions_per_step // group_size), reported)
        plan = growing.plan
        resumed = plan.version == version
        current = CutRound(plan.version, plan.maker.sampling.temperature, self._cut(resumed))
        is_cut = self._grow(growing, current, self._position if resumed else 0)
        self._growing, self._is_cut, self._reported = growing, is_cut, reported and resumed
        self._turn_to(current, index, cursor, version, plan.version, self._problems_per_round)

    def _has_next(self) -> bool:
        if self._current is None or self._growing is None:
            return False
        self._is_cut |= self._grow(self._growing, self._current, self._position)
        self._n_steps = len(self._current.cut.steps)
        return super()._has_next()

    def _grow(self, growing: GrowingRound, current: CutRound, position: int) -> bool:
        """Let a round grow until its step at ``position`` is known, or to its end; return whether it is cut to its end."""
        while position >= len(current.cut.steps) and not growing.whole:
            kept = growing.grow()
            current.local |= kept
            current.cut.add(self._gather_indices(list(kept)))
            if growing.whole:
                current.cut.end()
        return growing.whole

    def state_dict(self, version: int) -> dict[str, Any]:
        """Return the position, and whether the current round was reported.

        The number of its batches is one beyond the position while more may come.
        """
        state = super().state_dict(version)
        state["reported"] = self._reported or (self._growing is not None and self._growing.whole)
        return state if self._is_cut else state | {"n_steps": max(state["n_steps"], state["position"] + 1)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rounds.close()
        self._growing, self._is_cut = None, True
        self._reported = state.get("reported", True)  # other schedules report a round before they train on it
        super().load_state_dict(state)

    def wait(self) -> None:
        """Return when engine, verifier and judge are free. Collective."""
        self._rounds.wait()

    def close(self, at_once: bool = False) -> None:
        """End the work in the background."""
        self._rounds.close(at_once)


def _sample(judged: JudgedSoFar, maker: RoundMaker, plan: RoundPlan) -> VerifiedGroups:
    assert isinstance(maker, StreamedRoundMaker)
    return maker.sample(plan.index, plan.assignments, plan.file, plan.version, judged)


def _share(plan: RoundPlan, groups: Mapping[int, JudgedGroup]) -> JudgedShare:
    """Return judged groups as a share without times and counts."""
    return JudgedShare(plan.index, plan.version, groups, {}, 0, 0.0, 0.0, Counts(), Counts())
