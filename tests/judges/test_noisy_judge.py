"""NoisyJudge: which labels it flips, that they depend on the solution alone, and that its judge works as without it."""

from __future__ import annotations

import dataclasses
import pickle
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import (
    Counts,
    EngineSharing,
    Judge,
    JudgeCase,
    RefreshableJudge,
    StoringJudge,
    TallyingJudge,
    WritingJudge,
    abstain,
    tally_of,
)
from lit_tpgrpo.judges.noisy import NoisyJudge
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.judges.wrapped import WrapperTally
from lit_tpgrpo.records import Outcome, Problem, Solution, Step, StepLabel, StopReason, Verdict

C, X, M, U = StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.MATCHED, StepLabel.UNMATCHED


def case(labels: tuple[StepLabel, ...], uid: str = "p", sample: int = 0, text: str = "some text") -> JudgeCase:
    steps = tuple(Step(i, i + 1, i, i + 1, is_answer=i == len(labels) - 1) for i in range(len(labels)))
    n = len(steps)
    solution = Solution(uid, sample, (1,), (2,) * n, (0.0,) * n, StopReason.EOS, 0, text, tuple(range(n)))
    outcome = Outcome.CORRECT if labels[-1] is C else Outcome.INCORRECT
    return JudgeCase(Problem(uid, "1 + 1?", "2"), solution, outcome, steps)


class Fixed(Judge):
    """Gives the labels that it was built with, in reverse order of the cases."""

    def __init__(self, *labels: tuple[StepLabel, ...]) -> None:
        self.labels = labels

    def judge(self, cases):
        for i in reversed(range(len(cases))):
            yield i, Verdict(cases[i].steps, self.labels[i % len(self.labels)], "a note")


def judged(judge: Judge, *cases: JudgeCase) -> list[tuple[StepLabel, ...]]:
    verdicts = dict(judge.judge(cases))
    return [verdicts[i].labels for i in range(len(cases))]


def test_error_0_keeps_every_label_and_1_flips_all_but_the_answers():
    fixed = Fixed((C, X, C, C), (M, U, U, M))
    cases = [case(labels) for labels in fixed.labels]
    assert judged(NoisyJudge(fixed, error=0.0), *cases) == list(fixed.labels)
    assert judged(NoisyJudge(fixed, error=1.0), *cases) == [(X, C, X, C), (U, M, M, M)]


def test_a_flipped_step_has_the_share_of_its_new_label():
    """CAPOCredit reads the shares of an average vote and no labels: errors in the labels alone would cost nothing."""

    class Average(Judge):
        def judge(self, cases):
            yield 0, Verdict(cases[0].steps, (C, X, X, C), "", (0.0, 0.75, 0.5, 0.0))

    ((_, all_flipped),) = NoisyJudge(Average(), error=1.0).judge([case((C, X, X, C))])
    assert (all_flipped.labels, all_flipped.wrong_shares) == ((X, C, C, C), (1.0, 0.0, 0.0, 0.0))
    ((_, kept),) = NoisyJudge(Average(), error=0.0).judge([case((C, X, X, C))])
    assert kept.wrong_shares == (0.0, 0.75, 0.5, 0.0)


def test_the_rest_of_a_verdict_is_kept():
    fixed, one = Fixed((C, X, C)), case((C, X, C))
    ((index, verdict),) = NoisyJudge(fixed, error=1.0).judge([one])
    assert (index, verdict) == (0, Verdict(one.steps, (X, C, C), "a note"))


def test_abstentions_are_no_labels():
    class Abstaining(Fixed):
        def judge(self, cases):
            return enumerate(abstain(c, "why") for c in cases)

    noisy = NoisyJudge(Abstaining(), error=1.0)
    one = case((C, C, C))
    assert dict(noisy.judge([one])) == {0: abstain(one, "why")}
    assert noisy.metrics() == {"labels_flippable": 0, "labels_flipped": 0}


def test_a_step_flips_by_seed_problem_sample_and_text_alone():
    labels = (C,) * 60 + (C,)
    fixed, one = Fixed(labels), case(labels)
    once = judged(NoisyJudge(fixed, error=0.4), one)[0]
    assert 10 < once.count(X) < 40
    # Again, beside other cases and in another order: as on another number of ranks and after a restart.
    others = [case(labels, sample=3), one, case(labels, uid="q")]
    assert judged(NoisyJudge(fixed, error=0.4), *others)[1] == once
    later = dataclasses.replace(one, solution=dataclasses.replace(one.solution, policy_version=7))
    assert judged(NoisyJudge(fixed, error=0.4), later)[0] == once
    differing = [case(labels, uid="q"), case(labels, sample=1), case(labels, text="another text")]
    patterns = {once, *judged(NoisyJudge(fixed, error=0.4), *differing), judged(NoisyJudge(fixed, 0.4, 1), one)[0]}
    assert len(patterns) == 5


def test_a_larger_error_flips_all_that_a_smaller_one_does():
    labels = (C, X) * 40 + (C,)
    flipped = []
    for error in (0.05, 0.1, 0.2, 0.4):
        (noisy,) = judged(NoisyJudge(Fixed(labels), error=error), case(labels))
        flipped.append({i for i, (a, b) in enumerate(zip(labels, noisy, strict=True)) if a is not b})
    assert flipped[0] < flipped[1] < flipped[2] < flipped[3]


@pytest.mark.parametrize("error", [0.05, 0.1, 0.4])
def test_the_share_of_flipped_labels(error: float):
    labels = (C, X, C, X) * 5 + (C,)
    noisy = NoisyJudge(Fixed(labels), error=error)
    list(noisy.judge([case(labels, sample=i) for i in range(500)]))
    counts = noisy.metrics()
    assert counts["labels_flippable"] == 10_000
    # Four standard deviations of a binomial share; the draws are the same on every machine.
    assert counts["labels_flipped"] / 10_000 == pytest.approx(error, abs=4 * (error * (1 - error) / 10_000) ** 0.5)
    assert not any(noisy.metrics().values())  # reset


def test_counters_of_both_judges_are_summed_over_ranks():
    class Counting(Fixed):
        def metrics(self) -> dict[str, float]:
            return {"cases": 2.0}

    judge = NoisyJudge(Counting((C, C)), error=1.0)
    list(judge.judge([case((C, C))]))
    assert isinstance(judge, TallyingJudge)
    tally = pickle.loads(pickle.dumps(tally_of(judge)))
    both: Any = tally + WrapperTally(Counts(cases=1.0), Counts(labels_flipped=4, labels_flippable=5))
    assert both.metrics() == {"cases": 3.0, "labels_flipped": 5, "labels_flippable": 6}


def test_a_judge_with_caches_weights_and_an_engine_keeps_them():
    class Everything(Fixed):
        needs_policy = True

        def __init__(self) -> None:
            super().__init__((C,))
            self.calls: list[Any] = []

        def refresh(self, policy):
            self.calls.append(("refresh", policy))
            return True

        def share_engine(self, engine):
            self.calls.append(("share_engine", engine))

        @contextmanager
        def bypass_cache(self):
            self.calls.append("bypass")
            yield
            self.calls.append("cache again")

        def check_writable(self):
            self.calls.append("check_writable")

        def tally(self):
            return Counts(seconds=3.0)

        def close(self):
            self.calls.append("close")

    inner, policy, engine = Everything(), SimpleNamespace(), SimpleNamespace()
    judge: Any = NoisyJudge(inner)
    for protocol in (Judge, RefreshableJudge, EngineSharing, StoringJudge, WritingJudge, TallyingJudge):
        assert isinstance(judge, protocol)
    assert judge.needs_policy is True
    assert judge.refresh(policy) is True
    judge.share_engine(engine)
    with judge.bypass_cache():
        judge.check_writable()
    judge.close()
    assert inner.calls == [
        ("refresh", policy),
        ("share_engine", engine),
        "bypass",
        "check_writable",
        "cache again",
        "close",
    ]
    assert judge.metrics()["seconds"] == 3.0


def test_a_judge_without_them_needs_nothing():
    judge: Any = NoisyJudge(RuleJudge())
    assert judge.needs_policy is judge.refresh(SimpleNamespace()) is False
    judge.share_engine(SimpleNamespace())
    judge.check_writable()
    with judge.bypass_cache():
        pass
    judge.close()
    judge.close()


def test_stored_verdicts_depend_on_all_settings():
    judge = NoisyJudge(RuleJudge(max_work=5), error=0.2, seed=3)
    assert judge.name == "noisy_rule"
    inner = {"name": "rule", "class": "lit_tpgrpo.judges.rule.RuleJudge", "max_work": 5}
    assert judge.settings == {"judge": inner, "error": 0.2, "seed": 3}


@pytest.mark.parametrize("error", [-0.1, 1.1, float("nan")])
def test_error_is_a_probability(error: float):
    with pytest.raises(ConfigError, match=r"error must be in \[0, 1\]"):
        NoisyJudge(RuleJudge(), error=error)
