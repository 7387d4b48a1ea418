"""The rule judge's labels side by side in worker processes, what is lost with one, and how the work grows with the text."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, writer_samples
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.audit_sets import read_prmbench
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.judges.rule_labellers import LocalLabeller, WorkerLabeller
from lit_tpgrpo.judges.rule_labels import RuleCase, RuleLabels, label_steps
from lit_tpgrpo.verify.worker_process import WorkerProcess
from tests.real_data import SAMPLE
from tests.text.test_growth import steps

ERROR = ("First, 3 + 5 = 8.", "Next, 8 * 2 = 4.", "Wait, 8 * 2 = 4 is wrong. It should be 8 * 2 = 6.")
CASE = RuleCase("?", ERROR, "", True, 10_000)
LONG = RuleCase("?", ERROR * 4000, "", True, 10_000_000)
"""Half a megabyte, more than a pipe holds, and far more than 10 ms of work."""


@pytest.fixture
def labeller() -> Iterator[WorkerLabeller]:
    labeller = WorkerLabeller(1, timeout_s=60.0)
    yield labeller
    labeller.close()


def counts(labeller: WorkerLabeller) -> list[float]:
    return list(labeller.metrics().values())  # timeouts, crashes, failures, respawns


def cases() -> list[JudgeCase]:
    written = [case for case, _ in label_cases(writer_samples("2", 20, 0))[0]]
    return [*read_prmbench(SAMPLE.folder / "prmbench_qwq_solutions.jsonl").cases[:8], *written]


@pytest.mark.filterwarnings("ignore:RuleJudge is used on problems outside")
def test_workers_give_the_labels_and_counts_of_one_process():
    alone, judge = RuleJudge(), RuleJudge(workers=2)
    try:
        assert dict(judge.judge(cases())) == dict(alone.judge(cases()))
        expected = alone.metrics()
        assert judge.metrics() == expected | dict.fromkeys(WorkerLabeller(1, 1.0).metrics(), 0.0)
        assert expected["cases"] == len(cases())
    finally:
        judge.close()
        judge.close()


@pytest.mark.filterwarnings("ignore:RuleJudge is used on problems outside")
@pytest.mark.parametrize("workers", [0, 1])
def test_no_verdict_waits_for_the_next_case(workers: int):
    """The third case comes when the verdicts on the others are there, one of which has no answer block."""
    given, got, both = cases()[-3:], [], threading.Event()
    given[1] = replace(given[1], steps=given[1].steps[:-1])

    def arriving() -> Iterator[JudgeCase]:
        yield from given[:2]
        assert both.wait(60.0), got
        yield given[2]

    judge = RuleJudge(workers=workers)
    try:
        for index, verdict in judge.judge_arriving(arriving()):
            got.append((index, verdict.abstained))
            if len(got) == 2:
                both.set()
    finally:
        judge.close()
    assert sorted(got[:2]) == [(0, False), (1, True)]
    assert got[2:] == [(2, False)]


def test_what_ends_the_cases_ends_the_labels(labeller: WorkerLabeller):
    def broken() -> Iterator[tuple[int, RuleCase]]:
        yield 0, CASE
        raise ValueError("no more")

    got = []
    with pytest.raises(ValueError, match="no more"):
        got.extend(labeller.label(broken()))
    labels = labeller.label([(n, CASE) for n in range(50)])
    next(labels)
    labels.close()  # type: ignore[attr-defined]
    assert dict(labeller.label([(0, CASE)])) == {0: label_steps(CASE)}


def test_a_worker_that_is_killed_while_idle_is_replaced_and_counted(labeller: WorkerLabeller):
    expected = {0: label_steps(CASE), 1: label_steps(LONG)}
    assert dict(labeller.label([(0, CASE), (1, LONG)])) == expected
    assert labeller._pool is not None
    (worker,) = labeller._pool._live
    os.kill(worker._process.pid, signal.SIGKILL)
    assert dict(labeller.label([(0, CASE)])) == {0: expected[0]}
    assert counts(labeller) == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("number", "timeout_s"), [(signal.SIGKILL, 60.0), pytest.param(signal.SIGSTOP, 0.05, marks=pytest.mark.slow)]
)
def test_a_solution_whose_workers_are_killed_or_stopped_twice_is_labelled_here(monkeypatch, number, timeout_s):
    """A worker that is stopped reads nothing: the message fills the pipe, and the wall-clock limit ends the wait."""
    request = WorkerProcess.request

    def request_of_a_lost_worker(self: WorkerProcess, message: object):
        os.kill(self._process.pid, number)
        return request(self, message)

    monkeypatch.setattr(WorkerProcess, "request", request_of_a_lost_worker)
    labeller = WorkerLabeller(1, timeout_s)
    try:
        assert dict(labeller.label([(7, LONG)])) == {7: label_steps(LONG)}
        assert counts(labeller) == [0, 0, 1, 2]
    finally:
        labeller.close()


def test_a_solution_over_the_processor_time_has_no_labels(monkeypatch):
    labeller = WorkerLabeller(1, timeout_s=0.01)
    try:
        assert dict(labeller.label([(0, LONG)])) == {0: "its labels take more than timeout_s of processor time"}
        assert counts(labeller) == [1, 0, 0, 1]
    finally:
        labeller.close()


@pytest.mark.filterwarnings("ignore:RuleJudge is used on problems outside")
def test_without_labels_the_judge_abstains(monkeypatch):
    monkeypatch.setattr(LocalLabeller, "label", lambda self, cases: ((i, "no reason") for i, _ in cases))
    judge = RuleJudge()
    ((_, verdict),) = judge.judge(cases()[:1])
    assert verdict.abstained
    assert verdict.note == "no reason"
    assert judge.metrics()["abstained"] == 1


@pytest.mark.parametrize("arguments", [{"workers": -1}, {"timeout_s": 0.0}, {"timeout_s": float("nan")}])
def test_settings_out_of_range_are_refused(arguments: dict):
    with pytest.raises(ConfigError, match="workers must be 0 or more and timeout_s positive"):
        RuleJudge(**arguments)


@given(st.builds(RuleCase, st.text(), st.lists(st.text()).map(tuple), st.text(), st.booleans(), st.integers(1)))
def test_cases_and_labels_survive_the_pipe(case: RuleCase):
    assert RuleCase.from_json(json.loads(json.dumps(case.as_json()))) == case
    labels = RuleLabels(frozenset(range(len(case.thinks))), {"reflections_nominated": 2}, case.correct)
    assert RuleLabels.from_json(json.loads(json.dumps(labels.as_json()))) == labels


def chain(errors: int) -> tuple[str, ...]:
    """A chain of which every error is corrected three steps later, 80 tokens for each error."""
    parts = (
        "So $n_{%d} = \\frac{%d}{2}$, and we go on with the next of the numbers that the problem gives.",
        "Next, %d * 2 = %d.",
        "Let me think about what comes next: the sum of all these numbers must not be larger than the bound.",
        "Wait, %d * 2 = %d is wrong. It should be %d * 2 = %d.",
    )
    texts = []
    for n in range(100, 100 + errors):
        values = ((n, n), (n, n + 1), (), (n, n + 1, n, 2 * n))
        texts += [part % value for part, value in zip(parts, values, strict=True)]
    return tuple(texts)


@pytest.mark.slow
@pytest.mark.parametrize("correct", [True, False])
def test_twice_the_chain_takes_twice_the_steps_up_to_100_000_tokens(correct: bool):
    """Counted in lines of Python; that each pattern is linear in the text is tested in ``tests/linear``."""
    answer = "So 163 * 2 = 326, and the answer is \\boxed{326}."
    half, whole = (RuleCase("?", chain(errors), answer, correct, 10_000_000) for errors in (500, 1000))
    assert sum(map(len, whole.thinks)) > 2.66 * 100_000  # characters a token, of SmolLM2 on QwQ's chains
    short, long = (steps(lambda _, case=case: label_steps(case), "") for case in (half, whole))
    assert long <= 2.1 * short
    # In an incorrect solution: the adopted steps, 163 * 2 = 326 (n = 163) and, by its value, 325 * 2 = 326 (n = 325).
    assert label_steps(whole).wrong == (set(range(1, 4000, 4)) if correct else {4 * 63 + 3, 4 * 225 + 1})
