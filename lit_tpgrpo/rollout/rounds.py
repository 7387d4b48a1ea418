"""The stages of a round: sample what the store lacks, verify, reward, judge, assign credit, filter."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import lightning as L
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.engines.base import Batching, Engine, Policy, SamplingParams
from lit_tpgrpo.fingerprint import settings_of, tokenizer_fingerprint
from lit_tpgrpo.judges.base import Counts, Judge, RefreshableJudge, tally_of
from lit_tpgrpo.records import (
    CreditedSolution,
    JudgedGroup,
    JudgedSolution,
    Problem,
    Reward,
    Round,
    Solution,
    Verdict,
)
from lit_tpgrpo.rewards.base import VerifiedSolution
from lit_tpgrpo.rewards.weighted import WeightedRewards
from lit_tpgrpo.rollout.capability import Capability
from lit_tpgrpo.rollout.filters import KeepRule, is_kept
from lit_tpgrpo.rollout.judging import judge_groups
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rewarding import reward_solutions
from lit_tpgrpo.rollout.sampling import bar, batched, sample_groups
from lit_tpgrpo.rollout.store import RoundFile, Sampled
from lit_tpgrpo.rollout.summary import RoundTally, tally_round
from lit_tpgrpo.rollout.verifying import VerifiedGroups, verify_groups
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.signals import STOP
from lit_tpgrpo.text.formats.base import SolutionFormat
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.verify.base import Verifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A problem that this rank samples: its group's index in the round over all ranks, and its seed."""

    group_index: int
    problem: Problem
    seed: int


def assign_problems(
    trainer: L.Trainer, problems: Sequence[Problem], seed: int, *purpose: object, start: int = 0
) -> list[Assignment]:
    """Return this rank's problems, round-robin.

    A group is sampled on one rank, so its baseline needs no communication. Group indices and seeds do not depend on the
    number of ranks.

    Args:
        trainer: knows rank and world size.
        problems: of all ranks.
        seed: of the run.
        purpose: tells the seeds of rounds and evaluations apart.
        start: group index of the first problem.
    """
    return [
        Assignment(group_index, problem, derived_seed(seed, *purpose, group_index))
        for group_index, problem in enumerate(problems, start)
        if group_index % trainer.world_size == trainer.global_rank
    ]


@dataclass(frozen=True)
class RoundMaker:
    """Engine, verifier, rewards, judge and credit of a round; ``make`` runs them in order."""

    engine: Engine
    verifier: Verifier
    judge: Judge
    credit: CreditAssignment
    keep: KeepRule
    tokenizer: PreTrainedTokenizerBase
    sampling: SamplingParams
    group_size: int
    template: RolloutPrompt
    show_progress: bool = True
    format: SolutionFormat = field(default_factory=ThinkTags)
    rewards: WeightedRewards | None = None

    def policy_settings(self, version: int, weights: str, seed: int) -> dict[str, Any]:
        """Return what stored solutions must have been sampled with to be reused, whatever the problems and parameters.

        Args:
            version: of the policy.
            weights: fingerprint of its weights.
            seed: of the run.
        """
        return {
            "policy_version": version,
            "weights": weights,
            "seed": seed,
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            **self.template.settings,
            "kept_tags": list(self.format.tags()),
        }

    def sampling_settings(self, problems: Sequence[Problem], version: int, weights: str, seed: int) -> dict[str, Any]:
        """Return what a round's stored solutions must have been sampled with to be reused.

        Args:
            problems: of the round, over all ranks.
            version: of the policy.
            weights: fingerprint of its weights.
            seed: of the run.
        """
        return self.policy_settings(version, weights, seed) | {
            "group_size": self.group_size,
            "sampling": repr(self.sampling),
            "problems": [p.uid for p in problems],
        }

    def judging_settings(self) -> dict[str, Any]:
        """Return what stored verdicts must have been made with to be reused."""
        judge = {"name": self.judge.name} | settings_of(self.judge)
        return {"judge": judge, "verifier": settings_of(self.verifier), "format": settings_of(self.format)}

    def prepare_judge(self, policy: Policy) -> None:
        """Give a judge that is the policy itself the current weights, if it has none.

        That is the case without ``JudgeRefresh`` and in a resumed run: earlier weights ended with their process.
        """
        if isinstance(self.judge, RefreshableJudge) and self.judge.needs_policy:
            log.warning("the policy judges itself, from now on with its weights of step %d", policy.policy_version)
            self.judge.refresh(policy)

    def make(
        self,
        index: int,
        assignments: Sequence[Assignment],
        file: RoundFile,
        capability: Capability,
        *,
        policy_version: int,
        on_group: Callable[[JudgedGroup], None] = lambda group: None,
    ) -> tuple[Round, RoundTally]:
        """Return this rank's share of a round, and its sums for the metrics.

        Solutions, verdicts and rewards in ``file`` are reused.

        Args:
            index: of the round.
            assignments: this rank's problems.
            file: the round on disk.
            capability: scales r_c.
            policy_version: optimizer steps behind the weights that sample.
            on_group: called with each judged group, before credit is assigned to it.
        """
        verified = self.sample(index, assignments, file, policy_version)
        return self.complete(
            index, assignments, verified, file, capability, policy_version=policy_version, on_group=on_group
        )

    def sample(
        self, index: int, assignments: Sequence[Assignment], file: RoundFile, policy_version: int
    ) -> VerifiedGroups:
        """Sample and verify the groups of this rank's problems; the arguments are those of ``make``."""
        started = time.perf_counter()
        groups, new_tokens = self._sample(index, assignments, file, policy_version)
        sampled = time.perf_counter()
        verified, verdicts = verify_groups(self.verifier, self.format, groups, file, self.sampling.stop)
        return VerifiedGroups(verified, verdicts, new_tokens, sampled - started, time.perf_counter() - sampled)

    def complete(
        self,
        index: int,
        assignments: Sequence[Assignment],
        verified: VerifiedGroups,
        file: RoundFile,
        capability: Capability,
        *,
        policy_version: int,
        on_group: Callable[[JudgedGroup], None] = lambda group: None,
        dropped: Collection[int] = (),
    ) -> tuple[Round, RoundTally]:
        """Reward, judge and credit verified groups; the remaining arguments are those of ``make``.

        Args:
            index: of the round.
            assignments: this rank's problems, in the order of their group indices.
            verified: their groups.
            file: the round on disk.
            capability: scales r_c.
            policy_version: optimizer steps behind the weights that sampled.
            on_group: called with each group, before credit is assigned to it; with a dropped one too.
            dropped: indices of groups that are not trained on: they are neither rewarded nor judged.
        """
        started = time.perf_counter()
        rewards: dict[tuple[int, int], Reward] = {}
        if self.rewards is not None:
            todo = {g: group for g, group in verified.groups.items() if g not in dropped}
            rewards = reward_solutions(self.rewards, todo, file, f"round {index}: rewards", self.show_progress)
        verdicts = judge_groups(self.judge, verified, file, dropped, f"round {index}: judging", show=self.show_progress)
        judging_seconds = verified.verifying_seconds + time.perf_counter() - started
        credited: list[CreditedSolution] = []
        indices: list[int] = []
        groups: dict[int, JudgedGroup] = {}
        for g in (a.group_index for a in assignments):
            group = _judged_group(g, verified.groups[g], verdicts, rewards)
            if group.decided:  # without a decided solution acc_G would read 0
                group = replace(group, capability=capability.scale(group.problem.uid, group.accuracy))
                on_group(group)
            groups[g] = group
            if g not in dropped:
                solutions = self.credit(group)
                credited += solutions
                indices += [g * self.group_size + sample for sample in range(len(solutions))]
        keeps = [s.judged.is_rewarded and is_kept(self.keep, s) for s in credited]
        round_ = Round(
            index,
            policy_version,
            self.sampling.temperature,
            tuple(group for g, group in groups.items() if g not in dropped),
            tuple(credited),
            tuple(itertools.compress(credited, keeps)),
            tuple(indices),
            tuple(itertools.compress(indices, keeps)),
            dropped=tuple(group for g, group in groups.items() if g in dropped),
        )
        verifier = Counts(self.verifier.metrics())
        seconds = (verified.sampling_seconds, judging_seconds)
        terms = () if self.rewards is None else tuple(self.rewards.terms)
        return round_, tally_round(round_, verified.new_tokens, *seconds, verifier, tally_of(self.judge), terms)

    def sample_groups(
        self,
        problems: Sequence[Problem],
        seeds: Sequence[int],
        n: int,
        params: SamplingParams,
        *,
        policy_version: int,
    ) -> Iterator[tuple[int, tuple[Solution, ...]]]:
        """Yield ``(index of the problem, its n solutions)`` as the engine finishes them; ``seeds`` has one for each problem."""
        return sample_groups(
            self.engine,
            self.tokenizer,
            problems,
            seeds,
            n,
            params,
            template=self.template,
            format=self.format,
            policy_version=policy_version,
        )

    def _sample(
        self, index: int, assignments: Sequence[Assignment], file: RoundFile, policy_version: int
    ) -> tuple[dict[int, Sampled], int]:
        """Return the groups by group index, in order, and the number of tokens that were sampled for them now."""
        done = stored_groups(file, assignments, self.group_size, policy_version)
        missing = [a for a in assignments if a.group_index not in done]
        stream = self.sample_groups(
            [a.problem for a in missing],
            [a.seed for a in missing],
            self.group_size,
            self.sampling,
            policy_version=policy_version,
        )
        # One line per sampled batch: after a crash only complete batches are left, and the missing ones are sampled again.
        at_once = self.engine.prompts_at_once(self.group_size) if isinstance(self.engine, Batching) else 1
        new_tokens = 0
        self.engine.wake()  # also with nothing to sample: gathering a sharded policy is collective
        shown = bar(stream, f"round {index}: sampling", len(missing), self.show_progress)
        for batch in batched(shown, at_once):
            new = {missing[i].group_index: (missing[i].problem, solutions) for i, solutions in batch}
            file.add_solutions(new)
            STOP.check()
            done |= new
            new_tokens += sum(len(s.completion_ids) for _, solutions in new.values() for s in solutions)
        self.engine.sleep()
        return {a.group_index: done[a.group_index] for a in assignments}, new_tokens


def stored_groups(
    file: RoundFile, assignments: Sequence[Assignment], group_size: int, policy_version: int
) -> dict[int, Sampled]:
    """Return the stored groups of the assignments by group index: complete, of the same problems and policy version.

    Missing ones have to be sampled (again).
    """
    problems = {a.group_index: a.problem for a in assignments}
    stored = file.solutions(group_size, problems.keys())
    return {
        group_index: (problem, solutions)
        for group_index, (problem, solutions) in stored.items()
        if problem == problems[group_index] and {s.policy_version for s in solutions} == {policy_version}
    }


def _judged_group(
    group_index: int,
    group: Sequence[VerifiedSolution],
    verdicts: Mapping[tuple[int, int], Verdict],
    rewards: Mapping[tuple[int, int], Reward],
) -> JudgedGroup:
    keys = [(group_index, s.solution.sample) for s in group]
    judged = tuple(
        JudgedSolution(s.solution, s.outcome, s.answer, verdicts[key], rewards.get(key))
        for s, key in zip(group, keys, strict=True)
    )
    result = JudgedGroup(group[0].problem, judged, capability=0.0)
    return replace(result, capability=result.accuracy)
