"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): refill a round until it has the groups it was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.round_factory import RoundFactory, RoundPlan
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, Round
from lit_tpgrpo.rewards.base import VerifiedSolution
from lit_tpgrpo.rollout.assignments import assign_problems
from lit_tpgrpo.rollout.summary import RoundTally
from lit_tpgrpo.rollout.trainer_state import sampling_precision

GroupName = Literal["mixed", "any_correct"]
GroupRule = Callable[[Sequence[VerifiedSolution]], bool]


def is_mixed(group: Sequence[VerifiedSolution]) -> bool:
    """Return whether some decided solutions are correct and some are not: DAPO's rule, 0 < correct < G."""
    correct = _correct(group)
    return any(correct) and not all(correct)


def has_correct(group: Sequence[VerifiedSolution]) -> bool:
    """Return whether a decided solution is correct, and another one is there to compare it with."""
    correct = _correct(group)
    return len(correct) > 1 and any(correct)


def _correct(group: Sequence[VerifiedSolution]) -> list[bool]:
    return [s.outcome is Outcome.CORRECT for s in group if s.outcome is not Outcome.UNDECIDED]


GROUP_RULES: dict[GroupName, GroupRule] = {"mixed": is_mixed, "any_correct": has_correct}


@checked_arguments()
@dataclass(frozen=True)
class DynamicSampling:
    """How rounds are refilled: groups that do not count are dropped before they are judged, and others sampled in their place.

    Groups count by their outcomes, whatever the other terms of the reward are. Each refill samples as many problems as groups
    are missing, so that nothing is sampled in excess.

    Args:
        max_refills: refills of one round. After the last one it is trained on with the groups that it has.
        groups: which ones count: ``mixed`` (correct and incorrect solutions, as in DAPO), or ``any_correct``: all-correct
            ones too, in which TP-GRPO trains on incorrect thoughts.

    Raises:
        ConfigError: ``max_refills`` is not positive.
    """

    max_refills: int = 10
    groups: GroupName = "mixed"

    def __post_init__(self) -> None:
        if self.max_refills < 1:
            raise ConfigError(
                f"max_refills must be at least 1, got {self.max_refills}; without dynamic sampling, leave it out"
            )


@dataclass(frozen=True)
class RefillingFactory(RoundFactory):
    """Make rounds that have as many groups that count as they were asked for.

    A round is the shortest stretch of the problem stream that has them: its problems depend on seed, weights and outcomes,
    not on the number of ranks, nor on where an earlier run of the same round was interrupted. It consumes the problems that
    it sampled.

    Args:
        dynamic: when and how often to refill.
    """

    dynamic: DynamicSampling = DynamicSampling()
    _warned: list[int] = field(default_factory=list)

    def make(self, index: int, cursor: int, version: int | None) -> Round:
        """Make round ``index``; see ``RoundFactory.make``."""
        plan = self.plan(index, cursor, version)
        with sampling_precision(self.trainer):
            filled = self._refilled(plan)
            if filled is None:  # another version: what is left of the stored round is of weights that are gone
                self.warn_of_loss(plan)
                plan = self.plan(index, cursor, None)
                filled = self._refilled(plan)
            assert filled is not None
            self.note(plan, seen=plan.version == version)
            return self.finish(plan, *filled)

    def _refilled(self, plan: RoundPlan) -> tuple[Round, RoundTally] | None:
        """Sample until enough groups count, then judge and credit them. Collective.

        Returns:
            This rank's share of the round and the sums for its metrics; None if a refill is lost, see ``is_lost``.
        """
        counts, wanted, refills = GROUP_RULES[self.dynamic.groups], self.problems_per_round, 0
        problems, assignments = list(plan.problems), list(plan.assignments)
        verified = self.sample(plan, plan.assignments)
        while missing := wanted - sum(gather(sum(map(counts, verified.groups.values())))):
            if refills == self.dynamic.max_refills:
                self._warn(plan.index, missing)
                break
            start = len(problems)
            problems += self.stream().choose(plan.cursor + start, missing, plan.weights, problems)
            more = assign_problems(self.trainer, problems[start:], self.seed, "round", plan.index, start=start)
            if self.is_lost(replace(plan, assignments=more)):
                return None
            plan.maker.engine.load_weights(self.policy)  # a sleeping engine has none
            verified += self.sample(plan, more)
            assignments += more
            refills += 1
        dropped = {g for g, group in verified.groups.items() if not counts(group)}
        round_, tally = self.complete(plan, assignments, verified, dropped)
        metrics = {
            "dynamic/groups_sampled": float(len(problems)),
            "dynamic/groups_kept": float(wanted - missing),
            "dynamic/groups_missing": float(missing),
            "dynamic/refills": float(refills),
        }
        return replace(round_, metrics=metrics, consumed=len(problems)), tally

    def _warn(self, index: int, missing: int) -> None:
        if not self._warned:
            rank_zero_warn(
                f"round {index} lacks {missing} of {self.problems_per_round} groups after {self.dynamic.max_refills} refills "
                "(data.dynamic_sampling.max_refills) and is trained on with the rest (said once, see dynamic/groups_missing). "
                "Look at rollout/accuracy, then change the problems' difficulty or data.group_size"
            )
        self._warned.append(index)
