"""What a rank has of a round when its groups are judged, before credit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lit_tpgrpo.judges.base import Counts, Tally
from lit_tpgrpo.records import JudgedGroup, JudgedSolution, Reward, Verdict
from lit_tpgrpo.rewards.base import VerifiedSolution


@dataclass(frozen=True)
class JudgedShare:
    """This rank's groups of a round, judged and rewarded, before credit.

    Attributes:
        index: of the round.
        policy_version: optimizer steps behind the weights that sampled.
        groups: by group index, ascending; those that dynamic sampling dropped are in ``dropped``.
        dropped: groups that are neither judged nor credited.
        new_tokens: tokens that were sampled for them, not read from the store.
        sampling_seconds: time of sampling.
        judging_seconds: time of verifying, rewarding and judging.
        verified: counters of the verifier.
        judged: counters of the judge.
        evidence: counters of the providers of evidence.
    """

    index: int
    policy_version: int
    groups: Mapping[int, JudgedGroup]
    dropped: Mapping[int, JudgedGroup]
    new_tokens: int
    sampling_seconds: float
    judging_seconds: float
    verified: Tally
    judged: Tally
    evidence: Counts = field(default_factory=Counts)


def judged_group(
    group_index: int,
    group: Sequence[VerifiedSolution],
    verdicts: Mapping[tuple[int, int], Verdict],
    rewards: Mapping[tuple[int, int], Reward],
) -> JudgedGroup:
    """Put a group's solutions together with their verdicts and rewards, which are given by (group index, sample)."""
    keys = [(group_index, s.solution.sample) for s in group]
    judged = tuple(
        JudgedSolution(s.solution, s.outcome, s.answer, verdicts[key], rewards.get(key))
        for s, key in zip(group, keys, strict=True)
    )
    result = JudgedGroup(group[0].problem, judged, capability=0.0)
    return replace(result, capability=result.accuracy)
