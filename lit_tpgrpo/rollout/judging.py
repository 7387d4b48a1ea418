"""The stage of a round that judges its verified solutions: those that have no verdict in the store."""

from __future__ import annotations

from collections.abc import Collection

from lit_tpgrpo.arguments import shown
from lit_tpgrpo.credit.merging import agrees_with_answer, check_verdict, single_steps
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import Judge, JudgeCase, abstain
from lit_tpgrpo.records import JudgedSolution, Outcome, Verdict
from lit_tpgrpo.rewards.base import VerifiedSolution
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.sampling import bar
from lit_tpgrpo.rollout.verifying import VerifiedGroups
from lit_tpgrpo.signals import STOP

UNDECIDED = "the verifier left the outcome undecided"
DROPPED = "not judged: dynamic sampling dropped the group"
"""Notes of verdicts that abstain without asking the judge."""


def judge_groups(
    judge: Judge, verified: VerifiedGroups, file: RoundFile, dropped: Collection[int], desc: str, *, show: bool
) -> dict[tuple[int, int], Verdict]:
    """Return all verdicts by (group index, sample). Each is stored as it comes.

    The judge is not asked about UNDECIDED solutions and dropped groups: their verdicts abstain.

    Args:
        judge: labels the steps.
        verified: the groups, with what the store holds of their verdicts.
        file: the round on disk.
        dropped: indices of the groups that dynamic sampling dropped.
        desc: text of the progress bar.
        show: whether to show it.

    Raises:
        ConfigError: the judge gave no verdict on a solution, or one that contradicts its contract.
    """
    # A group that an earlier run dropped may be wanted by this one's settings.
    done = {key: v for key, v in verified.verdicts.items() if v.note != DROPPED or key[0] in dropped}
    todo = [(g, s) for g, group in verified.groups.items() for s in group if (g, s.solution.sample) not in done]
    cases = [JudgeCase(s.problem, s.solution, s.outcome, s.steps, s.division) for _, s in todo]

    def keep(i: int, verdict: Verdict) -> None:
        g, s = todo[i]
        done[g, s.solution.sample] = verdict
        file.add_verdict(g, s.problem, s.solution, s.outcome, s.answer, verdict)

    wanted: list[int] = []
    for i, (g, s) in enumerate(todo):
        # Stored as well: if they were decided after a restart, a round that is partly trained on would change.
        if s.outcome is Outcome.UNDECIDED:
            keep(i, abstain(cases[i], UNDECIDED))
        elif g in dropped:
            keep(i, abstain(cases[i], DROPPED))
        else:
            wanted.append(i)
    if wanted:
        verdicts = judge.judge([cases[i] for i in wanted])
        awaited = set(range(len(wanted)))
        for i, verdict in bar(verdicts, desc, len(wanted), show, "solution"):
            if i not in awaited:
                raise ConfigError(
                    f"the judge {type(judge).__name__} gave a verdict on case {i!r}; expected each index from 0 to "
                    f"{len(wanted) - 1} once"
                )
            awaited.remove(i)
            keep(wanted[i], checked_verdict(judge, todo[wanted[i]][1], verdict))
            STOP.check()
    judged = sum((g, s.solution.sample) in done for g, s in todo)
    if judged < len(todo):
        raise ConfigError(
            f"the judge {type(judge).__name__} gave no verdict on {len(todo) - judged} of {len(todo)} solutions; "
            "expected an (index, Verdict) for each case"
        )
    return done


def checked_verdict(judge: Judge, verified: VerifiedSolution, verdict: Verdict) -> Verdict:
    """Return a judge's verdict if steps and labels are what credit assignments expect, before it is stored.

    Raises:
        ConfigError: they are not; the message names the judge, the solution and what is wrong.
    """
    name = type(judge).__name__
    if not isinstance(verdict, Verdict):
        raise ConfigError(f"the judge {name} must yield (index, Verdict), got {shown(verdict)} as verdict")
    judged = JudgedSolution(verified.solution, verified.outcome, verified.answer, verdict)
    try:
        check_verdict(judged)
        agrees_with_answer(judged, single_steps(verdict))
    except ValueError as error:
        raise ConfigError(f"the judge {name}: {error}") from error
    return verdict
