"""Making a round: sample what the store lacks, verify, judge, assign credit, keep what teaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.engines.base import Engine, SamplingParams
from lit_tpgrpo.judges.base import Judge, JudgeCase
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome, Problem, Round, Solution
from lit_tpgrpo.rollout.filters import KeepRule
from lit_tpgrpo.rollout.sampling import bar, sample_groups, verify_solutions
from lit_tpgrpo.rollout.store import RoundFile
from lit_tpgrpo.rollout.summary import round_metrics
from lit_tpgrpo.text.steps import segment_steps
from lit_tpgrpo.verify.verifier import MathVerifier

Sampled = tuple[Problem, tuple[Solution, ...]]


class Capability(Protocol):
    """What the policy can do, per problem: scales r_c and may weigh which problems come next."""

    def scale(self, uid: str, accuracy: float) -> float:
        """The capability that r_c is scaled by, given this round's acc_G. Called once a group, in the round's order."""
        ...

    def weights(self, uids: Sequence[str]) -> Sequence[float] | None:
        """Sampling weights for the next round, or None for a plain shuffle."""
        ...


class GroupAccuracy:
    """The paper's rule: capability is acc_G itself, problems come in shuffled passes."""

    def scale(self, uid: str, accuracy: float) -> float:
        return accuracy

    def weights(self, uids: Sequence[str]) -> None:
        return None


@dataclass(frozen=True)
class RoundMaker:
    """The parts that a round is made with; ``make`` runs them in order."""

    engine: Engine
    verifier: MathVerifier
    judge: Judge
    credit: CreditAssignment
    keep: KeepRule
    tokenizer: PreTrainedTokenizerBase
    sampling: SamplingParams
    group_size: int
    template: str
    show_progress: bool = True

    def make(
        self,
        index: int,
        problems: Sequence[Problem],
        file: RoundFile,
        capability: Capability,
        *,
        policy_version: int,
        seed: int,
        on_group: Callable[[JudgedGroup], None] = lambda group: None,
    ) -> Round:
        """One round over ``problems``; what ``file`` already holds is neither sampled nor judged again."""
        started = time.perf_counter()
        groups, new_tokens = self._sample(index, problems, file, policy_version, seed)
        sampled = time.perf_counter()
        judged = self._judge(index, groups, file)
        finished = time.perf_counter()
        credited: list[CreditedSolution] = []
        for place, group in enumerate(judged):
            scaled = replace(group, capability=capability.scale(group.problem.uid, group.accuracy))
            judged[place] = scaled
            on_group(scaled)
            credited += self.credit(scaled)
        kept = tuple(s for s in credited if self.keep(s))
        made = Round(index, policy_version, self.sampling.temperature, tuple(judged), tuple(credited), kept)
        speed = {
            "rollout/seconds": sampled - started,
            "rollout/tokens_per_s": new_tokens / (sampled - started),
            "judge/seconds": finished - sampled,
        }
        return replace(made, metrics=round_metrics(made) | speed | self._service_metrics())

    def _service_metrics(self) -> dict[str, float]:
        return {f"verify/{k}": float(v) for k, v in self.verifier.metrics().items()} | {
            f"judge/{k}": float(v) for k, v in self.judge.metrics().items()
        }

    def _sample(
        self, index: int, problems: Sequence[Problem], file: RoundFile, policy_version: int, seed: int
    ) -> tuple[list[Sampled], int]:
        """All groups of the round in order, and the tokens that had to be sampled for it."""
        done = file.solutions()
        missing = [g for g in range(len(problems)) if g not in done]
        stream = sample_groups(
            self.engine,
            self.tokenizer,
            [problems[g] for g in missing],
            self.group_size,
            self.sampling,
            template=self.template,
            seed=seed,
            policy_version=policy_version,
        )
        new_tokens = 0
        if missing:
            self.engine.wake()
            for i, solutions in bar(stream, f"round {index}: sampling", len(missing), self.show_progress):
                group = missing[i]
                done[group] = (problems[group], solutions)
                file.add_solutions(group, problems[group], solutions)
                new_tokens += sum(len(s.completion_ids) for s in solutions)
        self.engine.sleep()
        return [done[g] for g in range(len(problems))], new_tokens

    def _judge(self, index: int, groups: Sequence[Sampled], file: RoundFile) -> list[JudgedGroup]:
        done = file.verdicts()
        todo = [
            (g, problem, solution)
            for g, (problem, solutions) in enumerate(groups)
            for solution in solutions
            if (g, solution.sample) not in done
        ]
        checked = verify_solutions(self.verifier, [(p, s) for _, p, s in todo])
        cases = [
            JudgeCase(p, s, outcome, segment_steps(s.text, s.token_starts, len(s.completion_ids)))
            for (_, p, s), (outcome, _) in zip(todo, checked, strict=True)
        ]
        if cases:
            verdicts = self.judge.judge(cases)
            for i, verdict in bar(verdicts, f"round {index}: judging", len(cases), self.show_progress, "solution"):
                (g, _, solution), (outcome, answer) = todo[i], checked[i]
                done[g, solution.sample] = (outcome, answer, verdict)
                file.add_verdict(g, solution.sample, outcome, answer, verdict)
        return [_judged_group(g, problem, solutions, done) for g, (problem, solutions) in enumerate(groups)]


def _judged_group(
    place: int, problem: Problem, solutions: Sequence[Solution], done: Mapping[tuple[int, int], tuple[Any, ...]]
) -> JudgedGroup:
    judged = tuple(JudgedSolution(s, *done[place, s.sample]) for s in solutions)
    accuracy = sum(s.outcome is Outcome.CORRECT for s in judged) / len(judged)
    return JudgedGroup(problem, judged, capability=accuracy)
