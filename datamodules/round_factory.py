"""Make the rounds of a training run: choose problems, sample and judge them, correct log-probs, report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import lightning as L

from lit_tpgrpo.datamodules.stream import ProblemStream
from lit_tpgrpo.distributed import gather, gather_sum, raise_on_all_ranks
from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.records import JudgedGroup, Problem, Round
from lit_tpgrpo.rollout.assignments import Assignment, assign_problems, stored_groups
from lit_tpgrpo.rollout.by_source import has_few_sources, tally_sources
from lit_tpgrpo.rollout.capability import Capability
from lit_tpgrpo.rollout.correction import Correction, scorer_of
from lit_tpgrpo.rollout.evidence import teach, uses_engine
from lit_tpgrpo.rollout.hooks import call_round_hook
from lit_tpgrpo.rollout.mismatch import MismatchTally
from lit_tpgrpo.rollout.monitors import check_monitors
from lit_tpgrpo.rollout.reference import add_reference_logprobs, needs_reference, reference_scorer_of
from lit_tpgrpo.rollout.report import report_round
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.run_store import RunStore
from lit_tpgrpo.rollout.sampling_weights import is_whole, trained_path, weights_of_round, weights_path
from lit_tpgrpo.rollout.summary import RoundTally
from lit_tpgrpo.rollout.trainer_state import is_out_of_time, policy_of, sampling_precision
from lit_tpgrpo.rollout.verifying import VerifiedGroups
from lit_tpgrpo.signals import STOP, OutOfTimeError, unless_out_of_time

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class RoundPlan:
    """A round that is ready to be sampled.

    Attributes:
        index: of the round.
        version: policy version (optimizer steps) that samples it, or sampled it before a restart.
        cursor: problems that earlier rounds have consumed, over all ranks.
        problems: of the round, over all ranks.
        weights: the problems' sampling weights; None for shuffled passes.
        assignments: this rank's problems.
        file: the round on disk.
        maker: the stages it goes through.
    """

    index: int
    version: int
    cursor: int
    problems: Sequence[Problem]
    weights: Sequence[float] | None
    assignments: Sequence[Assignment]
    file: RoundFile
    maker: RoundMaker


@dataclass(frozen=True)
class RoundFactory:
    """Make rounds with the current policy, or take them up again from disk. A schedule decides when.

    ``make`` is ``plan``, ``fill`` and ``finish`` one after another; a schedule that overlaps them with training calls them
    itself. All are collective.

    Args:
        trainer: of the run; its module is the policy.
        stream: returns the training problems, in the order in which they are sampled.
        problems_per_round: over all ranks.
        seed: of sampling.
        store: the run's rounds on disk.
        maker: returns the stages of a round. Called after the hook ``on_round_start``, which may change the judge.
        capability: returns what scales r_c and may weight the problems.
        correction: of the engine–trainer log-prob mismatch; None for none.
    """

    trainer: L.Trainer
    stream: Callable[[], ProblemStream]
    problems_per_round: int
    seed: int
    store: RunStore
    maker: Callable[[], RoundMaker]
    capability: Callable[[], Capability]
    correction: Correction | None
    _unseen: set[int] = field(default_factory=set)
    """Rounds at which monitors have not looked."""

    @property
    def policy(self) -> Policy:
        return policy_of(self.trainer)

    def make(self, index: int, cursor: int, version: int | None) -> Round:
        """Make round ``index``.

        Args:
            index: of the round.
            cursor: problems that earlier rounds have consumed, over all ranks.
            version: policy version that sampled the round before a restart; None samples it with the current policy.

        Returns:
            This rank's share of the round. Its ``policy_version`` is another than ``version`` if the stored round was
            incomplete: it has then been sampled again.

        Raises:
            OutOfTimeError: ``max_time`` was reached while the round was sampled or judged; what is complete is stored.
        """
        plan = self.plan(index, cursor, version)
        self.note(plan, seen=plan.version == version)
        with sampling_precision(self.trainer):
            round_, tally = self.fill(plan)
            return self.finish(plan, round_, tally)

    def plan(self, index: int, cursor: int, version: int | None) -> RoundPlan:
        """Choose the round's problems and open it on disk; see ``make`` for the arguments."""
        stream = self.stream()
        if version is None:
            version = self._begin(index)
        else:
            call_round_hook(self.trainer, "on_round_resume", index)
        weights = self.capability().weights([p.uid for p in stream.problems])
        problems = stream.choose(cursor, self.problems_per_round, weights)
        plan = self._open(index, version, cursor, problems, weights)
        if self.is_lost(plan):
            self.warn_of_loss(plan)
            plan = self._open(index, self._begin(index), cursor, problems, weights)
        plan.maker.prepare_judge(self.policy)
        self.load_weights(plan)  # after the hooks: an audit may have used the same engine
        return plan

    def load_weights(self, plan: RoundPlan) -> None:
        """Give the engine the weights that sample the round. Collective."""
        plan.maker.engine.load_weights(self.policy)

    def is_lost(self, plan: RoundPlan) -> bool:
        """Return whether groups of the plan are not on disk, on any rank, and the weights that sampled them are gone."""
        return plan.version != self.policy.policy_version and any(gather(is_incomplete(plan)))

    def note(self, plan: RoundPlan, seen: bool) -> None:
        """Note whether monitors have looked at the round: they did if a checkpoint has it as the current one."""
        (self._unseen.discard if seen else self._unseen.add)(plan.index)

    def has_old_weights(self, plan: RoundPlan) -> bool:
        """Return whether the policy has the weights whose log-probs are the round's old ones; the same on all ranks."""
        return plan.version == self.policy.policy_version

    @contextmanager
    def old_weights(self, plan: RoundPlan) -> Iterator[bool]:
        """Give the policy the weights whose log-probs are the round's old ones, within the context. Collective.

        They may lie beside the round, if it was trained on before it was whole. False if they are not to be had.
        """
        path = trained_path(self.policy, plan.file.folder)
        if self.has_old_weights(plan):
            yield True
        elif not all(gather(path.is_file() and is_whole(self.policy))):
            yield False
        else:
            with ExitStack() as stack:
                with raise_on_all_ranks(f"round {plan.index}: weights that sampled it"):
                    stack.enter_context(weights_of_round(self.policy, path))
                yield True

    def forget_weights(self, plan: RoundPlan) -> None:
        """Delete the weights beside a round: it is whole and scored."""
        with raise_on_all_ranks(f"round {plan.index}"):
            if self.trainer.local_rank == 0:
                for path in {weights_path(plan.file.folder), trained_path(self.policy, plan.file.folder)}:
                    path.unlink(missing_ok=True)

    def warn_of_loss(self, plan: RoundPlan) -> None:
        """Log that the stored round cannot be continued."""
        log.warning(
            "round %d was sampled at step %d and is not whole on disk any more (data.keep_rounds is %d): all of it is "
            "sampled again, with the weights of step %d",
            *(plan.index, plan.version, self.store.keep, self.policy.policy_version),
        )

    def fill(self, plan: RoundPlan) -> tuple[Round, RoundTally]:
        """Sample, verify, judge and credit what the store lacks; return this rank's share and the sums for its metrics."""
        verified = self.sample(plan, plan.assignments)
        return self.complete(plan, plan.assignments, verified)

    def sample(self, plan: RoundPlan, assignments: Sequence[Assignment]) -> VerifiedGroups:
        """Sample and verify this rank's problems, those that the store lacks."""
        return self.interruptible(plan, lambda: plan.maker.sample(plan.index, assignments, plan.file, plan.version))

    def complete(
        self,
        plan: RoundPlan,
        assignments: Sequence[Assignment],
        verified: VerifiedGroups,
        dropped: Collection[int] = (),
    ) -> tuple[Round, RoundTally]:
        """Judge and credit verified groups, but those with the indices in ``dropped``."""
        share = self.interruptible(
            plan,
            lambda: plan.maker.judge_share(
                plan.index,
                assignments,
                verified,
                plan.file,
                self.capability(),
                policy_version=plan.version,
                on_group=self.on_group,
                dropped=dropped,
            ),
        )
        if plan.maker.evidence:
            if uses_engine(plan.maker.evidence):
                plan.maker.engine.load_weights(self.policy)  # collective; the judge may have used the engine
            guard = partial(raise_on_all_ranks, f"round {plan.index}: learning outcomes")
            teach(plan.maker.evidence, share.groups, plan.index, guard)
            current = plan.version == self.policy.policy_version
            judged = share
            share = self.interruptible(
                plan, lambda: plan.maker.evidence_share(judged, plan.file, self.seed, current=current)
            )
        if needs_reference(plan.maker.credit):
            share = replace(share, groups=self.with_reference(plan, share.groups))
        return plan.maker.credit_share(share, lambda: raise_on_all_ranks(f"round {plan.index}"))

    def with_reference(self, plan: RoundPlan, groups: Mapping[int, JudgedGroup]) -> dict[int, JudgedGroup]:
        """Return judged groups with log-probs under the reference. Collective, so not ``interruptible``."""
        with self.old_weights(plan) as current:
            return add_reference_logprobs(
                groups,
                plan.maker.group_size,
                plan.maker.sampling.temperature,
                plan.file,
                reference_scorer_of(self.trainer.lightning_module),
                mismatched=getattr(plan.maker.engine, "mismatched", False),
                current=current,
            )

    def on_group(self, group: JudgedGroup) -> None:
        """Call the hook ``on_group_judged``."""
        call_round_hook(self.trainer, "on_group_judged", group)

    def interruptible(self, plan: RoundPlan, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, a stage of the round without collectives on this rank.

        Raises:
            OutOfTimeError: ``max_time`` was reached on a rank; what is complete is stored.
        """
        with raise_on_all_ranks(f"round {plan.index}"), STOP.until(lambda: is_out_of_time(self.trainer)):
            result = unless_out_of_time(work)
        if any(gather(result is None)) or result is None:  # the second is for the type checker
            self.stop_engine(plan)
            raise OutOfTimeError
        return result

    def stop_engine(self, plan: RoundPlan) -> None:
        """Let the engine rest: no more of the round is sampled now."""
        plan.maker.engine.sleep()

    def finish(self, plan: RoundPlan, round_: Round, tally: RoundTally) -> Round:
        """Correct log-probs, compute the metrics of all ranks, log them, call ``on_round_end`` and check monitors."""
        round_, mismatch = self.correct(plan, round_)
        self.forget_weights(plan)
        return self.publish(plan, round_, tally, mismatch)

    def publish(self, plan: RoundPlan, round_: Round, tally: RoundTally, mismatch: MismatchTally | None) -> Round:
        """Compute the metrics of all ranks, log them, call ``on_round_end`` and check monitors; see ``finish``."""
        metrics = gather_sum(tally).metrics() | ({} if mismatch is None else gather_sum(mismatch).metrics())
        if has_few_sources(self.stream().problems):
            metrics |= gather_sum(tally_sources((*round_.groups, *round_.dropped))).metrics()
        round_ = replace(round_, metrics=metrics | dict(round_.metrics))
        report_round(self.trainer, round_, plan.maker.format)
        call_round_hook(self.trainer, "on_round_end", round_)
        if plan.index in self._unseen:
            self.note(plan, seen=True)
            check_monitors(self.trainer)
        return round_

    def _begin(self, index: int) -> int:
        """Let the current policy sample the round; return its version."""
        self.store.sampled_by = fingerprint(self.policy.named_tensors())
        call_round_hook(self.trainer, "on_round_start", index)
        return self.policy.policy_version

    def _open(
        self, index: int, version: int, cursor: int, problems: Sequence[Problem], weights: Sequence[float] | None
    ) -> RoundPlan:
        maker = self.maker()
        sampled_with = maker.sampling_settings(problems, version, self.store.sampled_by, self.seed)
        file = self.store.open(self.trainer, index, sampled_with, maker.judging_settings())
        assignments = assign_problems(self.trainer, problems, self.seed, "round", index)
        return RoundPlan(index, version, cursor, problems, weights, assignments, file, maker)

    def correct(self, plan: RoundPlan, round_: Round) -> tuple[Round, MismatchTally | None]:
        """Return the round with corrected log-probs, and sums of the mismatch. Collective."""
        if self.correction is None:
            return round_, None
        scorer, cut = scorer_of(self.trainer.lightning_module), plan.maker.sampling.cuts_distribution
        with self.old_weights(plan) as current:
            return self.correction.apply(round_, plan.file, scorer, current, cut)


def is_incomplete(plan: RoundPlan) -> bool:
    """Return whether groups of this rank are not on disk as they were sampled."""
    stored = stored_groups(plan.file, plan.assignments, plan.maker.group_size, plan.version)
    return len(stored) < len(plan.assignments)
