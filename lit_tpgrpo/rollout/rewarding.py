"""The stage of a round that rewards verified solutions: compute the terms that the store lacks, and add them up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from lit_tpgrpo.records import Outcome, Reward
from lit_tpgrpo.rewards.base import RewardCase, VerifiedSolution
from lit_tpgrpo.rewards.weighted import Todo, WeightedRewards
from lit_tpgrpo.rollout.round_file import RewardKey, RoundFile
from lit_tpgrpo.rollout.sampling import bar
from lit_tpgrpo.rollout.token_records import solution_digest
from lit_tpgrpo.signals import STOP


def reward_solutions(
    rewards: WeightedRewards, groups: Mapping[int, Sequence[VerifiedSolution]], file: RoundFile, desc: str, show: bool
) -> dict[tuple[int, int], Reward]:
    """Return the reward of each decided solution, by (group index, sample); UNDECIDED ones have none.

    Each value is stored as soon as it is computed: a resumed run does not call a term again for it, and gets the same number. A
    stored value is reused if the term's settings, and the solutions, answers and outcomes of its group are the same; weights
    may change.

    Args:
        rewards: the terms.
        groups: verified solutions of this rank's problems, in the order of their samples.
        file: the round on disk.
        desc: text of the progress bar.
        show: whether to show it.
    """
    cases = [
        (index, RewardCase(s.problem, s.solution, s.outcome, s.answer, s.steps, s.division, tuple(group)))
        for index, group in groups.items()
        for s in group
        if s.outcome is not Outcome.UNDECIDED
    ]
    settings = {name: json.dumps(rewards.settings(name), sort_keys=True) for name in rewards.terms}
    digests: dict[RewardKey, str] = {}
    for index, group in groups.items():
        content = _content(group)
        digests |= {
            (index, s.solution.sample, name): _digest(settings[name], content) for s in group for name in rewards.terms
        }
    values = file.rewards(digests)
    keys = [(index, case.solution.sample) for index, case in cases]
    todo = [Todo(i, name) for i, key in enumerate(keys) for name in rewards.terms if (*key, name) not in values]
    computed = rewards.compute([case for _, case in cases], todo)
    for call, value in bar(computed, desc, len(todo), show, "value"):
        key = (*keys[call.index], call.term)
        values[key] = value
        file.add_reward(key, digests[key], value)
        STOP.check()
    return {key: rewards.reward({name: values[*key, name] for name in rewards.terms}) for key in keys}


def _content(group: Sequence[VerifiedSolution]) -> str:
    """Return what the values of a group depend on besides the terms: a term may look at the whole group."""
    rows = [[solution_digest(s.solution, s.problem.answer), s.answer, s.outcome.value] for s in group]
    return json.dumps([group[0].problem.prompt, rows])


def _digest(settings: str, content: str) -> str:
    return hashlib.blake2b(f"{settings}\n{content}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
