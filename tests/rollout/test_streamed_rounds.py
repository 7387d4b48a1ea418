"""Streamed rounds: what a serial round gives, made while the engine still samples; an error in any thread ends all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.noisy import NoisyJudge
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.judges.voting import VotingJudge
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import JudgedGroup, Outcome, Problem, Round
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.rollout.streaming import StreamedRoundMaker
from lit_tpgrpo.signals import STOP
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.rollout.scripted_engine import Scripted as ScriptedTexts

PATIENCE_S = 300.0
"""A wait that ends here has failed; nothing that works comes near it."""
G = 4
PROBLEMS = [Problem(f"p/{i}", f"{i} + 1 = ?", str(i + 1)) for i in range(5)]
ASSIGNMENTS = [Assignment(g, problem, 10 * g) for g, problem in enumerate(PROBLEMS)]


class Scripted(ScriptedTexts):
    """Sample k of group g has k + 1 steps and says g + 1 + (k modulo 2): two in four are right. ``between`` is called after
    each group that was taken."""

    def __init__(self, model: str, between: Callable[[int], object] = lambda group: None) -> None:
        super().__init__(load_tokenizer(model), [])
        self.between = between

    def sample(self, prompts, n, params, seeds):
        for i, seed in enumerate(seeds):
            group = seed // 10
            yield i, tuple(self._completion(self._text(group, k)) for k in range(n))
            self.between(group)

    def _text(self, group: int, k: int) -> str:
        steps = "\n\n".join(f"{step} + {group} = {step + group}." for step in range(k + 1))
        return f"<think>\n{steps}\n</think>\n\\boxed{{{group + 1 + k % 2}}}"


class Undecided(MathVerifier):
    """Cannot decide the wrong answers of the second problem."""

    def verify_all(self, pairs):
        pairs = list(pairs)
        outcomes = super().verify_all(pairs)
        return [Outcome.UNDECIDED if pair == ("2", "3") else o for pair, o in zip(pairs, outcomes, strict=True)]


class Told(RuleJudge):
    """Calls ``tell`` with each case before it is judged."""

    def __init__(self, tell: Callable[[Any], object]) -> None:
        super().__init__()
        self.tell = tell

    def judge_arriving(self, cases):
        def told():
            for case in cases:
                self.tell(case)
                yield case

        return super().judge_arriving(told())


def parts(model: str, kind: type[RoundMaker] = StreamedRoundMaker, **given: Any) -> RoundMaker:
    engine = given.pop("engine", None) or Scripted(model)
    settings: dict[str, Any] = {"verifier": MathVerifier(), "judge": NoisyJudge(RuleJudge(), 0.3)} | given
    return kind(
        engine=engine,
        credit=ThoughtCredit(ddof=1, eps=0.0),
        keep=keep_all,
        tokenizer=load_tokenizer(model),
        sampling=SamplingParams(max_new_tokens=64),
        group_size=G,
        template=RolloutPrompt("{problem}"),
        show_progress=False,
        **settings,
    )


def stored(folder: Path) -> RoundFile:
    return RoundStore(folder).open(0, {"group_size": G})


def make(maker: RoundMaker, folder: Path, on_group: Callable[[JudgedGroup], None] = lambda group: None):
    return maker.make(0, ASSIGNMENTS, stored(folder), GroupAccuracy(), policy_version=0, on_group=on_group)


def content(made: Round) -> list[Any]:
    credited = [
        (s.judged.solution.problem_uid, s.judged.solution.sample, s.judged.outcome, s.judged.answer, s.judged.verdict)
        for s in made.credited
    ]
    return [credited, [s.advantages.tolist() for s in made.credited], made.kept_indices]


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("round-")]


def no_threads_left() -> bool:
    return not followers()


@pytest.mark.parametrize(
    "judge",
    [
        lambda: RuleJudge(),
        lambda: RuleJudge(workers=2),
        lambda: NoisyJudge(RuleJudge(), 0.3),
        lambda: VotingJudge(NoisyJudge(RuleJudge(), 0.3), votes=3, rule="majority"),
    ],
    ids=["rule", "workers", "noisy", "votes"],
)
def test_a_streamed_round_is_a_serial_one(random_model, tmp_path, judge):
    found, groups = [], []
    for kind in (RoundMaker, StreamedRoundMaker):
        met: list[str] = []
        made, tally = make(
            parts(random_model, kind, judge=judge(), verifier=Undecided()),
            tmp_path / kind.__name__,
            lambda g, met=met: met.append(g.problem.uid),
        )
        metrics = tally.metrics()
        timed = {name for name in metrics if name.endswith(("seconds", "per_s"))}
        found.append([content(made), {name: value for name, value in metrics.items() if name not in timed}])
        groups.append(met)
        # What is stored is a round of its own: nothing is asked again.
        untouched = Told(lambda case: pytest.fail("judged again"))
        again, _ = make(parts(random_model, kind, judge=untouched, verifier=Undecided()), tmp_path / kind.__name__)
        assert content(again) == content(made)
    assert found[0] == found[1]
    assert groups[0] == groups[1] == [p.uid for p in PROBLEMS]
    assert len({label for *_, verdict in found[0][0][0] for label in verdict.labels}) > 2
    assert no_threads_left()


def test_solutions_are_judged_while_others_are_sampled(random_model, tmp_path):
    """The engine goes on only when the last group's verdicts are stored."""
    judged: dict[int, threading.Event] = {g: threading.Event() for g in range(len(PROBLEMS))}

    class Announced(RoundFile):
        count = 0

        def add_verdict(self, group, *rest):
            super().add_verdict(group, *rest)
            self.count += 1
            if self.count % G == 0:
                judged[group].set()

    def wait(group: int) -> None:
        assert judged[group].wait(PATIENCE_S), f"group {group} was not judged before the next one was sampled"

    file = Announced(stored(tmp_path).folder)
    maker = parts(random_model, engine=Scripted(random_model, wait))
    made, tally = maker.make(0, ASSIGNMENTS, file, GroupAccuracy(), policy_version=0)
    assert len(made.credited) == G * len(PROBLEMS)
    assert tally.metrics()["judge/seconds"] > 0


def test_a_judge_that_overrides_judge_alone_is_asked_once_when_all_is_sampled(random_model, tmp_path):
    calls: list[tuple[int, bool]] = []
    sampled: list[int] = []

    class Own(RuleJudge):
        def judge(self, cases: Sequence):
            calls.append((len(cases), len(sampled) == len(PROBLEMS)))
            return super().judge(cases)

    engine = Scripted(random_model, sampled.append)
    made, _ = make(parts(random_model, judge=Own(), engine=engine), tmp_path)
    assert calls == [(G * len(PROBLEMS), True)]
    assert len(made.credited) == G * len(PROBLEMS)


class Batch(RuleJudge):
    """Overrides ``judge`` alone, and notes how many cases each call has."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.calls = calls

    def judge(self, cases: Sequence):
        self.calls.append(len(cases))
        return super().judge(cases)


class Delegating:
    """A wrapper that passes on what it lacks."""

    def __init__(self, inner: RuleJudge) -> None:
        self.inner, self.asked = inner, 0

    def judge(self, cases):
        self.asked += len(cases)
        return self.inner.judge(cases)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_wrapper_that_passes_on_what_it_lacks_is_not_passed_by(random_model, tmp_path):
    judge = Delegating(RuleJudge())
    make(parts(random_model, judge=judge), tmp_path)
    assert judge.asked == G * len(PROBLEMS)


def test_a_judge_is_not_asked_about_nothing(random_model, tmp_path):
    """As one that fails on an empty list would notice."""
    calls: list[int] = []

    make(parts(random_model, RoundMaker, judge=RuleJudge()), tmp_path)
    make(parts(random_model, judge=Batch(calls)), tmp_path)
    assert calls == []


class Broken(Exception): ...


def raise_at(number: int) -> Callable[[Any], None]:
    seen = iter(range(10_000))

    def tell(_: Any) -> None:
        if next(seen) == number:
            raise Broken

    return tell


class BrokenVerifier(MathVerifier):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.tell = raise_at(number)

    def verify_all(self, pairs):
        self.tell(None)
        return super().verify_all(pairs)


@given(where=st.sampled_from(["engine", "verifier", "judge"]), number=st.integers(0, len(PROBLEMS) - 1))
def test_an_error_anywhere_ends_all_and_loses_nothing(random_model, tmp_path_factory, where, number):
    tmp_path = tmp_path_factory.mktemp("broken")
    broken = {
        "engine": {"engine": Scripted(random_model, raise_at(number))},
        "verifier": {"verifier": BrokenVerifier(number)},
        "judge": {"judge": Told(raise_at(G * number))},
    }
    with pytest.raises(Broken):
        make(parts(random_model, **({"judge": RuleJudge()} | broken[where])), tmp_path)
    assert no_threads_left()
    file = stored(tmp_path)
    groups = file.solutions(G)
    have = file.verdicts(groups)
    if where == "engine":
        assert len(groups) == number + 1
    if where == "judge":
        assert len(have) == G * number
    asked: list[tuple[str, int]] = []
    judge = Told(lambda case: asked.append((case.problem.uid, case.solution.sample)))
    made, _ = make(parts(random_model, judge=judge), tmp_path)
    assert len(asked) == G * len(PROBLEMS) - len(have)
    assert content(made) == content(make(parts(random_model, RoundMaker, judge=RuleJudge()), tmp_path / "whole")[0])


def test_the_engine_stops_soon_after_the_judge_failed(random_model, tmp_path):
    """Not at the end of a round of hours."""
    failed = threading.Event()

    def fail(case: Any) -> None:
        failed.set()
        raise Broken

    sampled: list[int] = []

    def between(group: int) -> None:
        sampled.append(group)
        assert failed.wait(PATIENCE_S)
        for thread in followers():  # its error is known when its threads have ended
            thread.join(PATIENCE_S)
        assert no_threads_left()

    with pytest.raises(Broken):
        make(parts(random_model, judge=Told(fail), engine=Scripted(random_model, between)), tmp_path)
    assert sampled == [0]


def test_a_judge_does_not_begin_when_sampling_has_failed(random_model, tmp_path):
    """One that is asked once would judge all that was sampled before the run could end."""
    calls: list[int] = []

    with pytest.raises(Broken):
        make(parts(random_model, judge=Batch(calls), engine=Scripted(random_model, raise_at(3))), tmp_path)
    assert calls == []
    assert no_threads_left()


def test_the_judge_gets_no_more_cases_when_the_verifier_has_failed(random_model, tmp_path):
    failed, more = threading.Event(), []

    class FailsAtLast(BrokenVerifier):
        def verify_all(self, pairs):
            try:
                return super().verify_all(pairs)
            except Broken:
                failed.set()
                raise

    def tell(case: Any) -> None:
        more.append(case)
        assert failed.wait(PATIENCE_S)
        for thread in followers():
            if thread.name == "round-verifier":
                thread.join(PATIENCE_S)

    with pytest.raises(Broken):
        make(parts(random_model, judge=Told(tell), verifier=FailsAtLast(len(PROBLEMS) - 1)), tmp_path)
    assert len(more) <= 1  # none if the judge had not begun


def test_a_second_signal_does_not_wait_for_the_judge(random_model, tmp_path):
    asked, release = threading.Event(), threading.Event()

    def tell(case: Any) -> None:
        asked.set()
        release.wait(PATIENCE_S)

    def between(group: int) -> None:
        assert asked.wait(PATIENCE_S)
        error = KeyboardInterrupt()
        error.at_once = True  # pyright: ignore[reportAttributeAccessIssue]
        raise error

    with pytest.raises(KeyboardInterrupt):
        make(parts(random_model, judge=Told(tell), engine=Scripted(random_model, between)), tmp_path)
    assert "round-judge" in {thread.name for thread in followers()}
    release.set()
    for thread in followers():
        thread.join(PATIENCE_S)
    assert no_threads_left()


def test_a_signal_that_the_judges_thread_meets_ends_the_round(random_model, tmp_path, monkeypatch):
    """The first signal is noticed at the next verdict, in whichever thread that is."""

    def request(case: Any) -> None:
        monkeypatch.setattr(STOP, "requested", 2)

    with pytest.raises(KeyboardInterrupt):
        make(parts(random_model, judge=Told(request)), tmp_path)
    assert no_threads_left()


@pytest.mark.parametrize(("kept", "message"), [(-1, "gave no verdict on 1 of 20"), (0, "gave a verdict on case 0")])
def test_a_judge_that_breaks_its_contract_is_named(random_model, tmp_path, kept, message):
    class Unreliable(RuleJudge):
        def judge_arriving(self, cases):
            verdicts = list(super().judge_arriving(cases))
            yield from verdicts[:kept] if kept else [verdicts[0], *verdicts]

    with pytest.raises(ConfigError, match=f"the judge Unreliable {message}"):
        make(parts(random_model, judge=Unreliable()), tmp_path)
