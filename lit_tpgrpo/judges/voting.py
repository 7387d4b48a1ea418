"""VotingJudge: several verdicts of one judge on each solution, combined step by step (CAPO, arXiv 2508.02298)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import named_settings_of
from lit_tpgrpo.judges.base import OTHER_LABEL, Judge, JudgeCase, RepeatableJudge, abstain, judge_arriving
from lit_tpgrpo.judges.wrapped import WrappedJudge, noted
from lit_tpgrpo.records import WRONG_LABELS, StepLabel, Verdict

COUNTERS = ("votes", "votes_abstained", "votes_other_steps", "votes_too_few", "votes_steps", "votes_steps_split")
"""Verdicts asked for; those that abstained, and those dropped because they divide the solution differently; solutions with too
few of them left; steps voted on; steps on which the verdicts differed."""

Rule = Literal["intersection", "majority", "union", "average"]
RULES: Mapping[str, Callable[[int, int], bool]] = {
    "intersection": lambda n, k: n == k,
    "majority": lambda n, k: 2 * n >= k,
    "union": lambda n, k: n > 0,
    "average": lambda n, k: n > 0,
}
"""Whether a step that n of k verdicts call wrong is labelled wrong."""


@checked_arguments()
class VotingJudge(WrappedJudge):
    """Judge that asks another one several times about each solution and votes on the set of its wrong steps.

    With n_j of k verdicts that label step j wrong (INCORRECT in a correct solution, MATCHED in an incorrect one), step j is
    wrong if

        intersection: n_j = k        majority: n_j >= k / 2 (a tie is wrong)        union: n_j >= 1

    ``average`` labels as ``union`` does and also gives each step's share n_j / k, which ``CAPOCredit`` takes as the weight of
    its penalty; that reading of the paper's average, like all of CAPO here, is second-hand. All k verdicts are asked for at
    once, in one round of the judge inside: within its limits and its budget, each reply stored under its own seed.

    A verdict that abstains (a reply that cannot be read, an exhausted budget) is dropped, and so is one that divides the
    solution into other steps than most do (the earliest, if equally many). The vote is among the rest; with fewer than
    ``least`` of them the verdict abstains and the solution keeps its outcome reward alone. Dropped verdicts are counted
    (``judge/votes_*``) and named in the verdict's note. The counters of the judge inside count its verdicts, k a solution.

    Args:
        judge: a ``RepeatableJudge``: ``GenerativeJudge`` at a temperature above 0, or ``NoisyJudge``.
        votes: k, verdicts on each solution; 4 in the paper (second-hand).
        rule: how they are combined. The paper (second-hand) reports intersection best for small policies, majority or union
            at 7B.
        least: fewest verdicts for a vote.

    Raises:
        ConfigError: votes or least is out of range, the judge's verdicts on one solution would all be the same, or
            ``judge`` is no ``RepeatableJudge``.
    """

    def __init__(self, judge: Judge, votes: int = 4, rule: Rule = "intersection", least: int = 1) -> None:
        if votes < 1 or not 1 <= least <= votes:
            raise ConfigError(f"votes must be at least 1, and least from 1 to votes; got {votes} and {least}")
        if rule not in RULES:
            raise ConfigError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        if votes > 1 and not isinstance(judge, RepeatableJudge):
            raise ConfigError(
                f"{type(judge).__name__} gives the same verdict each time, so {votes} of them cannot vote; use a "
                "GenerativeJudge with a temperature, or give your judge a method check_repeatable and read JudgeCase.draw"
            )
        if votes > 1 and isinstance(judge, RepeatableJudge):
            judge.check_repeatable()
        super().__init__(judge, COUNTERS)
        self.votes = votes
        self.rule: Rule = rule
        self.least = least

    @property
    def name(self) -> str:
        return f"{self.rule}_{self.inner.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that verdicts depend on: those of the inner judge among them."""
        return {"judge": named_settings_of(self.inner), "votes": self.votes, "rule": self.rule, "least": self.least}

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Judge each case k times and vote as soon as its last verdict comes."""
        return self._votes(cases, self.inner.judge([draw for case in cases for draw in self._draws(case)]))

    def judge_arriving(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """As ``judge``, see ``StreamingJudge``."""
        seen: list[JudgeCase] = []
        draws = (draw for case in noted(cases, seen) for draw in self._draws(case))
        return self._votes(seen, judge_arriving(self.inner, draws))

    def _draws(self, case: JudgeCase) -> list[JudgeCase]:
        return [replace(case, draw=case.draw * self.votes + draw) for draw in range(self.votes)]

    def _votes(self, cases: Sequence[JudgeCase], drawn: Iterator[tuple[int, Verdict]]) -> Iterator[tuple[int, Verdict]]:
        given: defaultdict[int, dict[int, Verdict]] = defaultdict(dict)
        for index, verdict in drawn:
            case, draw = divmod(index, self.votes)
            given[case][draw] = verdict
            if len(given[case]) == self.votes:
                verdicts = given.pop(case)
                yield case, self._vote(cases[case], [verdicts[draw] for draw in range(self.votes)])

    def check_repeatable(self) -> None:
        """Check that draws differ, see ``RepeatableJudge``."""
        if not isinstance(self.inner, RepeatableJudge):
            raise ConfigError(f"{type(self.inner).__name__} gives the same verdict each time")
        self.inner.check_repeatable()

    def _vote(self, case: JudgeCase, verdicts: Sequence[Verdict]) -> Verdict:
        given = [verdict for verdict in verdicts if not verdict.abstained]
        steps = Counter(verdict.steps for verdict in given).most_common(1)
        voters = [verdict for verdict in given if verdict.steps == steps[0][0]]
        abstained, other = len(verdicts) - len(given), len(given) - len(voters)
        self.own.add(votes=len(verdicts), votes_abstained=abstained, votes_other_steps=other)
        note = _dropped(verdicts, abstained, other)
        if len(voters) < self.least:
            self.own.add(votes_too_few=1)
            return abstain(case, note)
        return self._combined(voters, note)

    def _combined(self, voters: Sequence[Verdict], note: str) -> Verdict:
        k, first = len(voters), voters[0]
        counts = [sum(voter.labels[j] in WRONG_LABELS for voter in voters) for j in range(len(first.steps))]
        self.own.add(votes_steps=len(counts), votes_steps_split=sum(0 < n < k for n in counts))
        labels = tuple(self._label(voters, j, n) for j, n in enumerate(counts))
        shares = tuple(n / k for n in counts) if self.rule == "average" else None
        return Verdict(first.steps, labels, note, shares)

    def _label(self, voters: Sequence[Verdict], j: int, n: int) -> StepLabel:
        """Return the label of step j: one that a voter gave it, or the right label where the rule overrules all of them."""
        given = [voter.labels[j] for voter in voters]
        wrong = next((label for label in given if label in WRONG_LABELS), None)
        if wrong is None or RULES[self.rule](n, len(voters)):
            return given[0] if wrong is None else wrong
        return OTHER_LABEL[wrong]


def _dropped(verdicts: Sequence[Verdict], abstained: int, other: int) -> str:
    """Say which verdicts were dropped and why; "" if none was."""
    reasons = Counter(verdict.note for verdict in verdicts if verdict.abstained)
    parts = [f"{abstained} of {len(verdicts)} verdicts abstained: {reasons.most_common(1)[0][0]}"] if abstained else []
    parts += [f"{other} of {len(verdicts)} verdicts divide the solution differently"] if other else []
    return "; ".join(parts)
