"""The stage of a round that judges its verified solutions: those that have no verdict in the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing, nullcontext

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

Grouped = tuple[int, VerifiedSolution]
"""A verified solution with the index of its group."""


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
    wanted: list[Grouped] = []
    for g, s in todo:
        # Stored as well: if they were decided after a restart, a round that is partly trained on would change.
        if s.outcome is Outcome.UNDECIDED:
            done[g, s.solution.sample] = store_verdict(file, g, s, abstain(judge_case(s), UNDECIDED))
        elif g in dropped:
            done[g, s.solution.sample] = store_verdict(file, g, s, abstain(judge_case(s), DROPPED))
        else:
            wanted.append((g, s))
    if wanted:
        verdicts = ask_judge(judge, lambda cases: judge.judge(list(cases)), wanted)
        for (g, s), verdict in bar(verdicts, desc, len(wanted), show, "solution"):
            done[g, s.solution.sample] = store_verdict(file, g, s, verdict)
            STOP.check()
    return done


def ask_judge(
    judge: Judge, ask: Callable[[Iterable[JudgeCase]], Iterable[tuple[int, Verdict]]], solutions: Iterable[Grouped]
) -> Generator[tuple[Grouped, Verdict], None, None]:
    """Yield each solution with its verdict as it comes, in any order; closing the iterator ends the judge's work.

    Args:
        judge: for messages.
        ask: judges cases: the judge's ``judge``, or another way to call it.
        solutions: with their group indices; ``next`` may wait for them.

    Raises:
        ConfigError: the judge gave no verdict on a solution, two, or one that contradicts its contract.
    """
    asked: list[Grouped] = []
    awaited: set[int] = set()

    def cases() -> Iterator[JudgeCase]:
        for grouped in solutions:
            awaited.add(len(asked))
            asked.append(grouped)
            yield judge_case(grouped[1])

    verdicts = ask(cases())
    with closing(verdicts) if isinstance(verdicts, Generator) else nullcontext():
        for i, verdict in verdicts:
            if i not in awaited:
                raise ConfigError(
                    f"the judge {type(judge).__name__} gave a verdict on case {i!r}; expected each index from 0 to "
                    f"{len(asked) - 1} once"
                )
            awaited.remove(i)
            yield asked[i], checked_verdict(judge, asked[i][1], verdict)
    if awaited:
        raise ConfigError(
            f"the judge {type(judge).__name__} gave no verdict on {len(awaited)} of {len(asked)} solutions; "
            "expected an (index, Verdict) for each case"
        )


def judge_case(s: VerifiedSolution) -> JudgeCase:
    """Return a verified solution as the judge gets it."""
    return JudgeCase(s.problem, s.solution, s.outcome, s.steps, s.division)


def store_verdict(file: RoundFile, group: int, s: VerifiedSolution, verdict: Verdict) -> Verdict:
    """Append a verdict to the round's file, and return it."""
    file.add_verdict(group, s.problem, s.solution, s.outcome, s.answer, verdict)
    return verdict


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
