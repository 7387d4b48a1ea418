"""The stages of a round: sample what the store lacks, verify, judge, assign credit, filter."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import lightning as L
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.merging import check_verdict
from lit_tpgrpo.engines.base import Batching, Engine, Policy, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.judges.base import Counts, Judge, JudgeCase, RefreshableJudge, abstain, tally_of
from lit_tpgrpo.records import (
    CreditedSolution,
    JudgedGroup,
    JudgedSolution,
    Outcome,
    Problem,
    Round,
    Solution,
    Verdict,
)
from lit_tpgrpo.rollout.filters import KeepRule, is_kept
from lit_tpgrpo.rollout.prompts import PromptTemplate
from lit_tpgrpo.rollout.sampling import bar, batched, sample_groups, verify_solutions
from lit_tpgrpo.rollout.store import RoundFile, Sampled
from lit_tpgrpo.rollout.summary import RoundTally, tally_round
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.signals import STOP
from lit_tpgrpo.text.formats.base import Division, SolutionFormat
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.text.steps import segment_steps
from lit_tpgrpo.verify.base import Verifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A problem that this rank samples: its group's index in the round over all ranks, and its seed."""

    group_index: int
    problem: Problem
    seed: int


def assign_problems(trainer: L.Trainer, problems: Sequence[Problem], seed: int, *purpose: object) -> list[Assignment]:
    """Return this rank's problems, round-robin.

    A group is sampled on one rank, so its baseline needs no communication. Group indices and seeds do not depend on the
    number of ranks.

    Args:
        trainer: knows rank and world size.
        problems: of all ranks.
        seed: of the run.
        purpose: tells the seeds of rounds and evaluations apart.
    """
    return [
        Assignment(group_index, problem, derived_seed(seed, *purpose, group_index))
        for group_index, problem in enumerate(problems)
        if group_index % trainer.world_size == trainer.global_rank
    ]


class Capability(Protocol):
    """The policy's capability per problem: scales r_c and may weight the sampling of problems."""

    def scale(self, uid: str, accuracy: float) -> float:
        """Return the factor of r_c, given this round's acc_G. Called once per group, in the round's order."""
        ...

    def weights(self, uids: Sequence[str]) -> Sequence[float] | None:
        """Return the problems' sampling weights for the next round, None for a plain shuffle."""
        ...


class GroupAccuracy:
    """The paper's rule: capability is acc_G, problems are sampled in shuffled passes."""

    def scale(self, uid: str, accuracy: float) -> float:
        """Return acc_G."""
        return accuracy

    def weights(self, uids: Sequence[str]) -> None:
        """Weight no problem: passes are plain shuffles."""


@dataclass(frozen=True)
class RoundMaker:
    """Engine, verifier, judge and credit of a round; ``make`` runs them in order."""

    engine: Engine
    verifier: Verifier
    judge: Judge
    credit: CreditAssignment
    keep: KeepRule
    tokenizer: PreTrainedTokenizerBase
    sampling: SamplingParams
    group_size: int
    template: PromptTemplate
    show_progress: bool = True
    format: SolutionFormat = field(default_factory=ThinkTags)

    def sampling_settings(self, problems: Sequence[Problem], version: int, weights: str, seed: int) -> dict[str, Any]:
        """Return what stored solutions must have been sampled with to be reused.

        Args:
            problems: of the round, over all ranks.
            version: of the policy.
            weights: fingerprint of its weights.
            seed: of the run.
        """
        return {
            "policy_version": version,
            "weights": weights,
            "seed": seed,
            "group_size": self.group_size,
            "sampling": repr(self.sampling),
            **self.template.settings,
            "kept_tags": list(self.format.tags()),
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

        Solutions and verdicts in ``file`` are reused.

        Args:
            index: of the round.
            assignments: this rank's problems.
            file: the round on disk.
            capability: scales r_c.
            policy_version: optimizer steps behind the weights that sample.
            on_group: called with each judged group, before credit is assigned to it.
        """
        started = time.perf_counter()
        groups, new_tokens = self._sample(index, assignments, file, policy_version)
        sampled = time.perf_counter()
        judged = self._judge(index, groups, file)
        finished = time.perf_counter()
        credited: list[CreditedSolution] = []
        indices: list[int] = []
        scaled: list[JudgedGroup] = []
        for assignment, group in zip(assignments, judged, strict=True):
            if group.decided:  # without a decided solution acc_G would read 0
                group = replace(group, capability=capability.scale(group.problem.uid, group.accuracy))
                on_group(group)
            scaled.append(group)
            solutions = self.credit(scaled[-1])
            credited += solutions
            indices += [assignment.group_index * self.group_size + sample for sample in range(len(solutions))]
        keeps = [s.judged.outcome is not Outcome.UNDECIDED and is_kept(self.keep, s) for s in credited]
        round_ = Round(
            index,
            policy_version,
            self.sampling.temperature,
            tuple(scaled),
            tuple(credited),
            tuple(itertools.compress(credited, keeps)),
            tuple(indices),
            tuple(itertools.compress(indices, keeps)),
        )
        verified = Counts(self.verifier.metrics())
        seconds = (sampled - started, finished - sampled)
        return round_, tally_round(round_, new_tokens, *seconds, verified, tally_of(self.judge))

    def _sample(
        self, index: int, assignments: Sequence[Assignment], file: RoundFile, policy_version: int
    ) -> tuple[dict[int, Sampled], int]:
        """Return the groups by group index, in order, and the number of tokens that were sampled for them now."""
        done = stored_groups(file, assignments, self.group_size, policy_version)
        missing = [a for a in assignments if a.group_index not in done]
        stream = sample_groups(
            self.engine,
            self.tokenizer,
            [a.problem for a in missing],
            [a.seed for a in missing],
            self.group_size,
            self.sampling,
            template=self.template,
            format=self.format,
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

    def _judge(self, index: int, groups: Mapping[int, Sampled], file: RoundFile) -> list[JudgedGroup]:
        done = {key: stored for key, stored in file.verdicts(groups).items() if _is_valid(groups, key, stored)}
        todo = [
            (g, problem, solution)
            for g, (problem, solutions) in groups.items()
            for solution in solutions
            if (g, solution.sample) not in done
        ]
        checked = verify_solutions(self.verifier, [(p, s) for _, p, s in todo], self.format)
        cases = [
            _judge_case(p, s, outcome, self.format.divide(s.text))
            for (_, p, s), (outcome, _) in zip(todo, checked, strict=True)
        ]

        def keep(i: int, verdict: Verdict) -> None:
            (g, problem, solution), (outcome, answer) = todo[i], checked[i]
            done[g, solution.sample] = (outcome, answer, verdict)
            file.add_verdict(g, problem, solution, outcome, answer, verdict)

        decided = [i for i, case in enumerate(cases) if case.outcome is not Outcome.UNDECIDED]
        # Stored as well: if they were decided after a restart, a round that is partly trained on would change.
        for i in sorted(set(range(len(cases))) - set(decided)):
            keep(i, abstain(cases[i], "the verifier left the outcome undecided"))
        if decided:
            verdicts = self.judge.judge([cases[i] for i in decided])
            for i, verdict in bar(verdicts, f"round {index}: judging", len(decided), self.show_progress, "solution"):
                keep(decided[i], verdict)
                STOP.check()
        judged = sum((g, solution.sample) in done for g, _, solution in todo)
        if judged < len(todo):
            raise ConfigError(
                f"the judge {type(self.judge).__name__} gave no verdict on {len(todo) - judged} of {len(todo)} solutions; "
                "expected an (index, Verdict) for each case"
            )
        return [_judged_group(g, problem, solutions, done) for g, (problem, solutions) in groups.items()]


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


def _is_valid(groups: Mapping[int, Sampled], key: tuple[int, int], stored: tuple[Outcome, str | None, Verdict]) -> bool:
    """Return whether a stored verdict is valid for its solution; otherwise the solution is judged again."""
    group_index, sample = key
    try:
        check_verdict(JudgedSolution(groups[group_index][1][sample], *stored))
    except ValueError as error:
        log.warning("%s; the solution is judged again", error)
        return False
    return True


def _judge_case(problem: Problem, solution: Solution, outcome: Outcome, division: Division) -> JudgeCase:
    steps = segment_steps(solution.text, solution.token_starts, len(solution.completion_ids), division)
    return JudgeCase(problem, solution, outcome, steps, division)


def _judged_group(
    group_index: int, problem: Problem, solutions: Sequence[Solution], done: Mapping[tuple[int, int], tuple[Any, ...]]
) -> JudgedGroup:
    judged = tuple(JudgedSolution(s, *done[group_index, s.sample]) for s in solutions)
    group = JudgedGroup(problem, judged, capability=0.0)
    return replace(group, capability=group.accuracy)
