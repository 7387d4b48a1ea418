"""The verifier's outcomes, shortcuts, memory and counters, with real worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify.verifier import MathVerifier
from lit_tpgrpo.verify.worker_process import WorkerProcess, WorkerTimeout

C, I, U = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE  # noqa: E741


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(timeout_s=20.0, cache_size=0)
    yield verifier
    verifier.close()


@pytest.fixture(scope="module")
def bare() -> Iterator[MathVerifier]:
    """math-verify decides everything."""
    verifier = MathVerifier(timeout_s=20.0, cache_size=0, shortcuts=False)
    yield verifier
    verifier.close()


@pytest.fixture
def own() -> Iterator[MathVerifier]:
    """One worker of its own, for tests that count or kill."""
    verifier = MathVerifier(workers=1, timeout_s=20.0)
    yield verifier
    verifier.close()


def sums(start: int, count: int) -> list[tuple[str, str | None]]:
    """Distinct pairs that need math-verify and are correct."""
    return [(f"x+{n}", f"{n}+x") for n in range(start, start + count)]


CASES = [
    (r"\frac{1}{2}", "0.5", C),
    (r"\frac{1}{2}", r"\dfrac12", C),
    ("p - q", "-q+p", C),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", C),
    (r"\{1,2\}", "2, 1", C),
    ("1,450,000", "1450000", C),
    (r"\text{Evelyn}", "Evelyn", C),
    ("x=5", "5", C),
    ("5", "5.", C),
    ("5", " 05 ", C),
    ("12", "13", I),
    ("(1,2)", "(2,1)", I),
    ("x=5", "y=5", I),
    ("x < 3", r"(-\infty,3)", C),
    (r"(-\infty,3)", "x < 3", C),
    ("5", None, I),
    ("5", "  ", I),
    (r"2007 + \frac\pi 2", "2", I),
    (r"2007 + \frac\pi 2", r" 2007 + \frac\pi 2.", C),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & \phantom -1 \end{pmatrix}", "-1", I),
    ("a + b + c", "a + b + d", I),
    # Unreadable: the answer, an answer that would break out of its box.
    ("7", "@#! 7", U),
    ("6", r"5} , \boxed{6", U),
    ("5", "5\\", U),
    ("", "5", U),
    ("5", "9" * 1001, U),
    # Generous and strict on purpose.
    ("50", r"50\%", C),
    ("C", "(C)", C),
    ("5 cm", "5", C),
    ("5 cm", "5 m", I),
    ("1/3", "0.333333", C),
    ("1/3", "0.33", I),
]


@pytest.mark.parametrize(("gold", "answer", "expected"), CASES)
def test_outcomes(bare: MathVerifier, verifier: MathVerifier, gold: str, answer: str | None, expected: Outcome):
    assert bare.verify_all([(gold, answer)]) == verifier.verify_all([(gold, answer)]) == [expected]


def test_what_nobody_can_read_is_correct_where_it_looks_the_same(verifier: MathVerifier, bare: MathVerifier):
    pairs = [("x + @", "x+@"), ("x + @", "x+#")]
    assert verifier.verify_all(pairs) == bare.verify_all(pairs) == [C, U]


INTEGERS = st.from_regex(r"-?[0-9]{1,16}", fullmatch=True)
RELATED = INTEGERS.flatmap(
    lambda gold: st.tuples(
        st.just(gold),
        st.sampled_from([gold, gold.lstrip("-"), f"-{gold.lstrip('-')}"]).map(lambda a: a.replace("-", "-00")),
    )
)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(INTEGERS, INTEGERS) | RELATED, min_size=20, max_size=40))
def test_integers_need_no_worker(verifier: MathVerifier, pairs: list[tuple[str, str]]):
    verifier.metrics()
    assert verifier.verify_all(pairs) == [C if int(gold) == int(answer) else I for gold, answer in pairs]
    assert verifier.metrics()["shortcuts"] == len(pairs)


def test_every_index_comes_once(verifier: MathVerifier):
    pairs = [("5", "5"), *sums(0, 5), ("5", None), ("x+1", "1+x"), ("x+1", "1+x")]
    assert sorted(index for index, _ in verifier.verify(pairs)) == list(range(9))
    assert list(verifier.verify([])) == []


def crashing(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the worker die in the middle of its next comparisons: stopped when it is asked, it has the question when it dies."""
    ask, read, left, asked = WorkerProcess.ask, WorkerProcess._read_line, iter(range(times)), []

    def ask_one_that_is_stopped(self, gold, answer):
        if next(left, None) is not None:
            os.kill(self._process.pid, signal.SIGSTOP)
            asked.append(self)
        return ask(self, gold, answer)

    def crash_and_read(self, limit_s):
        if self in asked:
            asked.remove(self)
            os.kill(self._process.pid, signal.SIGSEGV)
            os.kill(self._process.pid, signal.SIGCONT)
        return read(self, limit_s)

    monkeypatch.setattr(WorkerProcess, "ask", ask_one_that_is_stopped)
    monkeypatch.setattr(WorkerProcess, "_read_line", crash_and_read)


@pytest.mark.slow
@pytest.mark.parametrize(("crashes", "expected"), [(1, C), (2, U)])
def test_a_crash_is_tried_once_more(own: MathVerifier, monkeypatch, crashes: int, expected: Outcome):
    crashing(monkeypatch, crashes)
    assert own.verify_all(sums(0, 2)) == [expected, C]
    counts = own.metrics()
    assert counts["respawns"] == crashes
    assert counts["crash"] == (expected is U)


@pytest.mark.slow
def test_time_limits_and_crashes_are_not_remembered(own: MathVerifier, monkeypatch):
    (pair,) = sums(0, 1)
    ask = WorkerProcess.ask

    def late(self, gold, answer):
        monkeypatch.setattr(WorkerProcess, "ask", ask)
        raise WorkerTimeout

    monkeypatch.setattr(WorkerProcess, "ask", late)
    assert own.verify_all([pair]) == [U]
    crashing(monkeypatch, 2)
    assert own.verify_all([pair]) == [U]
    assert own.verify_all([pair]) == [C]


def test_pairs_are_remembered_up_to_the_cache_size():
    verifier = MathVerifier(workers=1, timeout_s=20.0, cache_size=2)
    try:
        a, b, c = sums(0, 3)
        for pair, hits in [(a, 0), (b, 0), (a, 1), (c, 0), (a, 1), (b, 0)]:  # c takes the place of b
            assert verifier.verify_all([pair]) == [C]
            assert verifier.metrics()["cache_hits"] == hits
    finally:
        verifier.close()


def test_metrics_count_every_pair_and_start_again(own: MathVerifier):
    half = ("x+1", "1+x")
    own.verify_all([half, half, ("5", "5"), ("5", "6"), ("5", None), ("x+@", "5"), ("1/2", "0." + "5" * 2000)])
    own.verify_all([half])
    expected = {
        "pairs": 8,
        "correct": 4,
        "incorrect": 2,
        "unverifiable": 2,
        "undecided": 0,
        "unparsed": 1,
        "too_long": 1,
        "timeout": 0,
        "crash": 0,
        "error": 0,
        "stalled": 0,
        "killed": 0,
        "shortcuts": 2,
        "cache_hits": 2,
        "respawns": 0,
    }
    assert own.metrics() == expected
    assert own.metrics() == dict.fromkeys(expected, 0)


def test_settings_and_inputs_are_checked():
    with pytest.raises(ConfigError, match="workers must be positive, got 0"):
        MathVerifier(workers=0)
    with pytest.raises(ConfigError, match="timeout_s must be positive"):
        MathVerifier(timeout_s=0.0)
    with pytest.raises(ConfigError, match=r"wall_timeout_s must be at least timeout_s \(5.0\).* got 1.0"):
        MathVerifier(wall_timeout_s=1.0)
    with pytest.raises(ConfigError, match="memory_mb must be at least 256"):
        MathVerifier(memory_mb=100)
    with pytest.raises(ConfigError, match="cache_size must be 0"):
        MathVerifier(cache_size=-1)
    with pytest.raises(TypeError, match=r"got 5; .*normalise_gold"):
        MathVerifier().verify([(5, "5")])  # pyright: ignore[reportArgumentType]
