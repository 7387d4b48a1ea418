"""The stages of a round: sample what the store lacks, verify, reward, judge, assign credit, filter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.batch.base import BatchStage
from lit_tpgrpo.credit.filters.base import GroupFilter
from lit_tpgrpo.engines.base import Batching, Engine, Policy, SamplingParams
from lit_tpgrpo.fingerprint import named_settings_of, settings_of, tokenizer_fingerprint
from lit_tpgrpo.judges.base import Counts, Judge, RefreshableJudge, tally_of
from lit_tpgrpo.judges.evidence.base import EvidenceProvider
from lit_tpgrpo.records import (
    CreditedSolution,
    JudgedGroup,
    Problem,
    Reward,
    Round,
    Solution,
)
from lit_tpgrpo.rewards.weighted import WeightedRewards
from lit_tpgrpo.rollout.assignments import Assignment, stored_groups
from lit_tpgrpo.rollout.capability import Capability
from lit_tpgrpo.rollout.crediting import Crediting, Guard
from lit_tpgrpo.rollout.evidence import RoundTools, add_evidence
from lit_tpgrpo.rollout.filters import KeepRule, is_kept
from lit_tpgrpo.rollout.judged_share import JudgedShare, judged_group
from lit_tpgrpo.rollout.judging import judge_groups
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rewarding import reward_solutions
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.sampling import bar, batched, sample_groups
from lit_tpgrpo.rollout.summary import RoundTally, tally_round
from lit_tpgrpo.rollout.token_records import Sampled
from lit_tpgrpo.rollout.verifying import VerifiedGroups, stored_verdicts, verdicts_of, verify_groups
from lit_tpgrpo.signals import STOP
from lit_tpgrpo.text.formats.base import SolutionFormat
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.verify.base import Verifier

log = logging.getLogger(__name__)


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
    group_filter: GroupFilter | None = None
    batch_stage: BatchStage | None = None
    evidence: Sequence[EvidenceProvider] = ()
    check: Callable[[], None] = STOP.check
    """Called between sampled batches and, where they are judged meanwhile, between verdicts; its exception ends the round."""

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
            **self._engine_settings(),
        }

    def _engine_settings(self) -> dict[str, Any]:
        """Return the settings of an engine whose samples depend on them, see ``Engine``."""
        has_settings = isinstance(getattr(self.engine, "settings", None), Mapping)
        return {"engine_settings": settings_of(self.engine)} if has_settings else {}

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
        return {
            "judge": named_settings_of(self.judge),
            "verifier": settings_of(self.verifier),
            "format": settings_of(self.format),
        }

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
        stored = stored_verdicts(groups, file)
        verified = verify_groups(self.verifier, self.format, groups, stored, self.sampling.stop)
        verdicts = verdicts_of(stored)
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
        """Judge and credit verified groups; the arguments are those of ``judge_share``.

        ``judge_share``, ``evidence_share`` and ``credit_share``, with an engine that still has the weights that sampled.
        """
        share = self.judge_share(
            index,
            assignments,
            verified,
            file,
            capability,
            policy_version=policy_version,
            on_group=on_group,
            dropped=dropped,
        )
        return self.credit_share(self.evidence_share(share, file))

    def judge_share(
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
    ) -> JudgedShare:
        """Reward and judge verified groups; the remaining arguments are those of ``make``.

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
        groups = self.judged_groups(index, assignments, verified, file, capability, on_group=on_group, dropped=dropped)
        judging_seconds = verified.verifying_seconds + time.perf_counter() - started
        return JudgedShare(
            index,
            policy_version,
            {g: group for g, group in groups.items() if g not in dropped},
            {g: group for g, group in groups.items() if g in dropped},
            verified.new_tokens,
            verified.sampling_seconds,
            judging_seconds,
            Counts(self.verifier.metrics()) if verified.checked is None else verified.checked,
            tally_of(self.judge) if verified.judged is None else verified.judged,
        )

    def judged_groups(
        self,
        index: int,
        assignments: Sequence[Assignment],
        verified: VerifiedGroups,
        file: RoundFile,
        capability: Capability,
        *,
        on_group: Callable[[JudgedGroup], None] = lambda group: None,
        dropped: Collection[int] = (),
    ) -> dict[int, JudgedGroup]:
        """Reward and judge verified groups, and return them by index; the arguments are those of ``judge_share``."""
        rewards: dict[tuple[int, int], Reward] = {}
        if self.rewards is not None:
            todo = {g: group for g, group in verified.groups.items() if g not in dropped}
            rewards = reward_solutions(self.rewards, todo, file, f"round {index}: rewards", self.show_progress)
        verdicts = judge_groups(self.judge, verified, file, dropped, f"round {index}: judging", show=self.show_progress)
        groups: dict[int, JudgedGroup] = {}
        for g in (a.group_index for a in assignments):
            group = judged_group(g, verified.groups[g], verdicts, rewards)
            if group.decided:  # without a decided solution acc_G would read 0
                group = replace(group, capability=capability.scale(group.problem.uid, group.accuracy))
                on_group(group)
            groups[g] = group
        return groups

    def evidence_share(self, share: JudgedShare, file: RoundFile, seed: int = 0, current: bool = True) -> JudgedShare:
        """Return judged groups with what the providers of evidence give on them.

        The engine must have the policy's weights if a provider uses it: a judge may have used it with others.

        Args:
            share: this rank's groups.
            file: the round on disk.
            seed: of the run.
            current: whether the policy still has the weights that sampled the round.
        """
        if not self.evidence:
            return share
        groups = self.with_evidence(share.groups, file, share.policy_version, seed, current)
        counts = sum((Counts(p.metrics()) for p in self.evidence), Counts())
        verified = share.verified + Counts(self.verifier.metrics())  # continuations are verified too
        return replace(share, groups=groups, verified=verified, evidence=counts)

    def with_evidence(
        self, groups: Mapping[int, JudgedGroup], file: RoundFile, policy_version: int, seed: int, current: bool
    ) -> dict[int, JudgedGroup]:
        """Return judged groups with what the providers give on them; the arguments are those of ``evidence_share``."""
        tools = RoundTools(
            self.engine,
            self.verifier,
            self.format,
            self.tokenizer,
            self.sampling,
            file,
            policy_version,
            seed,
            current,
            self.show_progress,
        )
        return add_evidence(self.evidence, groups, tools)

    def credit_share(self, share: JudgedShare, guard: Guard = nullcontext) -> tuple[Round, RoundTally]:
        """Credit judged groups and apply the keep rule. Collective with a group filter or a batch stage.

        Args:
            share: this rank's groups.
            guard: context of the parts without collectives, see ``Crediting``.
        """
        credited = self.credited(share.groups, guard)
        with guard():
            round_ = self.credited_round(share, credited, self.kept(credited))
            return round_, self.tally(round_, share)

    def credited(self, groups: Mapping[int, JudgedGroup], guard: Guard = nullcontext) -> dict[int, CreditedSolution]:
        """Credit judged groups, see ``Crediting``. Collective with a group filter or a batch stage."""
        return Crediting(self.credit, self.group_size, self.group_filter, self.batch_stage)(groups, guard)

    def kept(self, credited: Mapping[int, CreditedSolution]) -> dict[int, CreditedSolution]:
        """Return the solutions that are trained on."""
        return {i: s for i, s in credited.items() if s.judged.is_rewarded and is_kept(self.keep, s)}

    def credited_round(
        self, share: JudgedShare, credited: Mapping[int, CreditedSolution], kept: Mapping[int, CreditedSolution]
    ) -> Round:
        """Put a round together from its credited solutions and those of them that are kept, by ascending index."""
        return Round(
            share.index,
            share.policy_version,
            self.sampling.temperature,
            tuple(share.groups.values()),
            tuple(credited.values()),
            tuple(kept.values()),
            tuple(credited),
            tuple(kept),
            dropped=tuple(share.dropped.values()),
        )

    def tally(self, round_: Round, share: JudgedShare) -> RoundTally:
        """Return this rank's sums for the metrics of a round that was put together from a share."""
        seconds = (share.sampling_seconds, share.judging_seconds)
        terms = () if self.rewards is None else tuple(self.rewards.terms)
        tally = tally_round(round_, share.new_tokens, *seconds, share.verified, share.judged, terms)
        extra = {f"evidence/{name}": value for name, value in share.evidence.items()}
        if self.group_filter is not None:
            removed = sum(len(group.solutions) for group in round_.groups) - len(round_.credited)
            extra["credit/filtered_solutions"] = float(removed)
        return replace(tally, extra=Counts(extra))

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
        self,
        index: int,
        assignments: Sequence[Assignment],
        file: RoundFile,
        policy_version: int,
        on_groups: Callable[[Mapping[int, Sampled]], None] = lambda groups: None,
    ) -> tuple[dict[int, Sampled], int]:
        """Return the groups by group index, in order, and the number of tokens that were sampled for them now.

        ``on_groups`` is called with those that the store has, and with each new batch as soon as it is stored.
        """
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
        on_groups(dict(done))  # may raise, which must not keep other ranks waiting in ``wake``
        shown = bar(stream, f"round {index}: sampling", len(missing), self.show_progress)
        for batch in batched(shown, at_once):
            new = {missing[i].group_index: (missing[i].problem, solutions) for i, solutions in batch}
            file.add_solutions(new)
            on_groups(new)
            self.check()
            done |= new
            new_tokens += sum(len(s.completion_ids) for _, solutions in new.values() for s in solutions)
        self.engine.sleep()
        return {a.group_index: done[a.group_index] for a in assignments}, new_tokens
