"""The verifier with real worker processes: outcomes, killing, counting, and what happens at the end of a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify import __main__ as command
from lit_tpgrpo.verify.pool import PoolClosed, WorkerProcess, WorkerTimeout
from lit_tpgrpo.verify.verifier import MathVerifier

C, I, U = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE  # noqa: E741
REPOSITORY = Path(__file__).parents[2]
FREEZE = r"9^{9^{9^9}}"


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


def halves(start: int, count: int) -> list[tuple[str, str | None]]:
    """Distinct pairs that need a worker and are correct."""
    return [(rf"\frac{{{2 * n + 1}}}{{2}}", f"{n}.5") for n in range(start, start + count)]


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "lit_tpgrpo.verify.worker" in child.cmdline()]


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
    # The gold comes first: an interval may be given for an inequality, not the other way round.
    ("x < 3", r"(-\infty,3)", C),
    (r"(-\infty,3)", "x < 3", I),
    ("5", None, I),
    ("5", "  ", I),
    # Unreadable: the gold, the answer, an answer that would break out of its box.
    (r"2007 + \frac\pi 2", "2", U),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & \phantom -1 \end{pmatrix}", "-1", U),
    ("7", "@#! 7", U),
    ("6", r"5} , \boxed{6", U),
    ("5", "5\\", U),
    ("a + b + c", "a + b + d", U),
    ("", "5", U),
    ("5", "9" * 1001, U),
]


@pytest.mark.parametrize(("gold", "answer", "expected"), CASES)
def test_outcomes(bare: MathVerifier, gold: str, answer: str | None, expected: Outcome):
    assert bare.verify_all([(gold, answer)]) == [expected]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("50", "50%"),
        ("50", r"50\%"),
        ("0.000001", "0.0000012"),
        ("C", "(C)"),
        ("3", "2=3"),
        ("5 cm", "5 m"),
        ("0", "1 000"),
    ],
)
def test_known_to_be_too_generous(bare: MathVerifier, gold: str, answer: str):
    assert bare.verify_all([(gold, answer)]) == [C]


@pytest.mark.parametrize(("gold", "answer"), [("1/3", "0.33"), ("1000", "1e3")])
def test_known_to_be_too_strict(bare: MathVerifier, gold: str, answer: str):
    assert bare.verify_all([(gold, answer), ("1/3", "0.333333")]) == [I, C]


def test_equal_strings_are_correct_even_where_unreadable(verifier: MathVerifier, bare: MathVerifier):
    pair = (r"2007 + \frac\pi 2", r" 2007 + \frac\pi 2.")
    assert verifier.verify_all([pair]) == [C]
    assert bare.verify_all([pair]) == [U]


INTEGERS = st.from_regex(r"-?[0-9]{1,18}", fullmatch=True)
RELATED = INTEGERS.flatmap(
    lambda gold: st.tuples(
        st.just(gold),
        st.sampled_from([gold, gold.lstrip("-"), f"-{gold.lstrip('-')}"]).map(lambda a: a.replace("-", "-00")),
    )
)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(INTEGERS, INTEGERS) | RELATED, min_size=20, max_size=40))
def test_integers_come_out_as_from_math_verify(
    verifier: MathVerifier, bare: MathVerifier, pairs: list[tuple[str, str]]
):
    verifier.metrics()
    assert verifier.verify_all(pairs) == bare.verify_all(pairs)
    assert verifier.metrics()["shortcuts"] == len(pairs)


def test_every_index_comes_once(verifier: MathVerifier):
    pairs = [("5", "5"), *halves(0, 5), ("5", None), ("1/2", "0.5"), ("1/2", "0.5")]
    assert sorted(index for index, _ in verifier.verify(pairs)) == list(range(9))
    assert list(verifier.verify([])) == []


@pytest.mark.slow
def test_bombs_come_back_and_the_others_are_right():
    verifier = MathVerifier(timeout_s=3.0, max_answer_chars=5000)
    bombs = [
        FREEZE,
        "10^{10^{10}}",
        "1000000000!",
        "(" * 2000 + "1" + ")" * 2000,
        r"\sqrt{" * 700 + "2" + "}" * 700,
        "9" * 1_000_000,
        r"\binom{10^9}{5\cdot 10^8}",
    ]
    pairs: list[tuple[str, str | None]] = []
    for bomb, right in zip(bombs, halves(0, len(bombs)), strict=True):
        pairs += [("5", bomb), right, (right[0], "7/3")]
    try:
        assert verifier.verify_all(pairs) == [U, C, I] * len(bombs)
        assert verifier.verify_all([(FREEZE, "5")]) == [U]  # a gold may be one, too
        counts = verifier.metrics()
    finally:
        verifier.close()
    assert counts["unverifiable"] == 8
    assert counts["too_long"] == 1
    assert counts["timeout"] >= 5
    assert counts["respawns"] == counts["timeout"]


@pytest.mark.slow
def test_a_huge_answer_comes_back_also_without_the_length_limit():
    verifier = MathVerifier(workers=1, timeout_s=3.0, max_answer_chars=2_000_000)
    try:
        assert verifier.verify_all([("5", "1+" * 500_000 + "1"), ("1/2", "0.5")]) == [U, C]
    finally:
        verifier.close()


def test_memory_is_limited():
    verifier = MathVerifier(workers=1, timeout_s=30.0, memory_mb=256)
    try:
        huge = "(" + "+".join(f"x_{{{n}}}" for n in range(40)) + ")^{12}"
        del huge
        assert verifier.verify_all([("1/2", "0.5")]) == [C]
        (worker,) = workers_of(psutil.Process())
        assert worker.rlimit(psutil.RLIMIT_AS) == (256 * 2**20, 256 * 2**20)
    finally:
        verifier.close()


def test_killed_workers_are_replaced_and_no_answer_is_lost():
    verifier = MathVerifier(timeout_s=20.0)
    try:
        outcomes = {}
        for index, outcome in verifier.verify(halves(0, 60)):
            if not outcomes:
                for worker in workers_of(psutil.Process()):
                    worker.kill()
            outcomes[index] = outcome
        assert outcomes == dict.fromkeys(range(60), C)
        assert verifier.metrics()["respawns"] >= 1
    finally:
        verifier.close()


def crashing(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the worker die in the middle of its next comparisons."""
    ask, left = WorkerProcess.ask, iter(range(times))

    def ask_and_die(self, gold, answer):
        if next(left, None) is not None:
            os.kill(self._process.pid, signal.SIGSEGV)
        return ask(self, gold, answer)

    monkeypatch.setattr(WorkerProcess, "ask", ask_and_die)


@pytest.mark.parametrize(("crashes", "expected"), [(1, C), (2, U)])
def test_a_crash_is_tried_once_more(own: MathVerifier, monkeypatch, crashes: int, expected: Outcome):
    crashing(monkeypatch, crashes)
    assert own.verify_all(halves(0, 2)) == [expected, C]
    counts = own.metrics()
    assert counts["respawns"] == crashes
    assert counts["crash"] == (expected is U)


def test_time_limits_and_crashes_are_not_remembered(own: MathVerifier, monkeypatch):
    (pair,) = halves(0, 1)
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
        a, b, c = halves(0, 3)
        for pair, hits in [(a, 0), (b, 0), (a, 1), (c, 0), (a, 1), (b, 0)]:  # c takes the place of b
            assert verifier.verify_all([pair]) == [C]
            assert verifier.metrics()["cache_hits"] == hits
    finally:
        verifier.close()


def test_metrics_count_every_pair_and_start_again(own: MathVerifier):
    half = ("1/2", "0.5")
    own.verify_all([half, half, ("5", "5"), ("5", "6"), ("5", None), ("x^", "5"), ("1/2", "0." + "5" * 2000)])
    own.verify_all([half])
    expected = {
        "pairs": 8,
        "correct": 4,
        "incorrect": 2,
        "unverifiable": 2,
        "unparsed": 1,
        "too_long": 1,
        "timeout": 0,
        "crash": 0,
        "error": 0,
        "shortcuts": 2,
        "cache_hits": 2,
        "respawns": 0,
    }
    assert own.metrics() == expected
    assert own.metrics() == dict.fromkeys(expected, 0)


@pytest.mark.slow
def test_giving_up_an_iteration_cancels_what_waits():
    verifier = MathVerifier(workers=1, timeout_s=2.0)
    try:
        outcomes = verifier.verify([("1/2", "0.5"), *(("5", f"{n}+{FREEZE}") for n in range(100))])
        assert next(outcomes) == (0, C)
        outcomes.close()
        assert verifier.verify_all(halves(0, 1)) == [C]
        assert verifier.metrics()["respawns"] <= 2
    finally:
        verifier.close()


def test_close_leaves_no_process_and_may_be_called_twice():
    before = set(workers_of(psutil.Process()))
    verifier = MathVerifier(timeout_s=20.0)
    verifier.close()
    for _ in range(2):
        assert verifier.verify_all(halves(0, 10)) == [C] * 10
        started = set(workers_of(psutil.Process())) - before
        assert 1 <= len(started) <= 2
        verifier.close()
        verifier.close()
        assert not any(worker.is_running() for worker in started)


def test_closing_during_an_iteration_raises_in_it(own: MathVerifier):
    outcomes = own.verify([("1/2", "0.5"), ("5", FREEZE), *halves(1, 5)])
    assert next(outcomes) == (0, C)
    own.close()
    with pytest.raises(PoolClosed, match="verify them again"):
        list(outcomes)
    assert not workers_of(psutil.Process()) or all(w.is_running() for w in workers_of(psutil.Process()))


def test_a_forgotten_verifier_takes_its_workers_along():
    before = set(workers_of(psutil.Process()))
    verifier = MathVerifier(timeout_s=20.0)
    assert verifier.verify_all(halves(0, 1)) == [C]
    (worker,) = set(workers_of(psutil.Process())) - before
    del verifier
    assert not worker.is_running()


def test_several_threads_at_once(own: MathVerifier):
    results: dict[int, list[Outcome]] = {}

    def work(start: int) -> None:
        results[start] = own.verify_all([*halves(start, 5), ("1/2", "0.25")])

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 3, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys((0, 3, 6), [C] * 5 + [I])


def test_a_forked_copy_starts_workers_of_its_own(own: MathVerifier):
    assert own.verify_all(halves(0, 1)) == [C]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if own.verify_all(halves(1, 3)) == [C] * 3 else 2
            own.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert own.verify_all(halves(4, 3)) == [C] * 3
    assert own.metrics()["respawns"] == 0


def run_script(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A user's main script that runs something at its top level; started from a folder with a ``sympy.py`` in it."""
    (tmp_path / "sympy.py").write_text("raise RuntimeError('not the real one')")
    (tmp_path / "script").mkdir()
    main = tmp_path / "script" / "main.py"
    main.write_text(
        "import os, signal, psutil\n"
        "from lit_tpgrpo.verify.verifier import MathVerifier\n"
        "print('main script runs')\n"
        f"bombs = [('5', f'{{n}}+{FREEZE.replace('{', '{{').replace('}', '}}')}') for n in range(200)]\n"
        "pids = lambda: print('pids', *(child.pid for child in psutil.Process().children()), flush=True)\n" + script
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, str(main)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150
    )


def printed_workers(run: subprocess.CompletedProcess[str]) -> list[psutil.Process]:
    (pids,) = (line.split()[1:] for line in run.stdout.splitlines() if line.startswith("pids"))
    assert pids
    assert run.stdout.count("main script runs") == 1  # workers do not import it
    return [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]


def test_a_script_that_never_closes_leaves_nothing_behind(tmp_path: Path):
    run = run_script("v = MathVerifier(); print(v.verify_all([('1/2', '0.5')])); pids()", tmp_path)
    assert "CORRECT" in run.stdout, run.stderr
    assert run.returncode == 0
    assert printed_workers(run) == []


@pytest.mark.slow
def test_an_exception_ends_the_interpreter_in_spite_of_waiting_bombs(tmp_path: Path):
    script = "v = MathVerifier(timeout_s=3.0); i = v.verify([('1/2', '0.5'), *bombs]); next(i); pids(); 1 / 0"
    run = run_script(script, tmp_path)
    assert "ZeroDivisionError" in run.stderr
    assert printed_workers(run) == []


@pytest.mark.slow
def test_workers_die_with_a_parent_that_was_killed(tmp_path: Path):
    script = (
        "v = MathVerifier(timeout_s=1.0); i = v.verify([('1/2', '0.5'), *bombs]); next(i); pids()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = run_script(script, tmp_path)
    assert run.returncode == -signal.SIGKILL, run.stderr
    _, alive = psutil.wait_procs(printed_workers(run), timeout=120)
    assert alive == []


def test_the_worker_speaks_json_lines_only_and_knows_no_torch():
    run = subprocess.run(
        [sys.executable, "-m", "lit_tpgrpo.verify.worker"],
        input='["1/2", "0.5"]\n["5", "\\\\boxed{x^}"]\n',
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line) for line in run.stdout.splitlines()] == [{"ready": True}, "correct", "unparsed"]
    imports = "import sys, lit_tpgrpo.verify.worker as w; w.load_comparison(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", imports], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_a_worker_that_cannot_start_is_an_error_with_its_remedy(own: MathVerifier, monkeypatch, tmp_path: Path):
    broken = tmp_path / "math_verify.py"
    broken.write_text("raise ImportError('half an installation')")
    start = subprocess.Popen

    def without_math_verify(command, env, **options):
        return start(command, env={**env, "PYTHONPATH": f"{tmp_path}:{env['PYTHONPATH']}"}, **options)

    monkeypatch.setattr(subprocess, "Popen", without_math_verify)
    with pytest.raises(RuntimeError, match=r"half an installation.*install math-verify"):
        own.verify_all(halves(0, 1))
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: start([sys.executable, "-c", ""], **options))
    with pytest.raises(RuntimeError, match=r"3 in a row did not .* to see why"):
        own.verify_all(halves(0, 1))


def test_settings_and_inputs_are_checked():
    with pytest.raises(ConfigError, match="workers must be positive, got 0"):
        MathVerifier(workers=0)
    with pytest.raises(ConfigError, match="timeout_s must be positive"):
        MathVerifier(timeout_s=0.0)
    with pytest.raises(ConfigError, match="memory_mb must be at least 256"):
        MathVerifier(memory_mb=100)
    with pytest.raises(ConfigError, match="cache_size must be 0"):
        MathVerifier(cache_size=-1)
    with pytest.raises(TypeError, match="got 5; .*normalise_gold"):
        MathVerifier().verify([(5, "5")])  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_real_labels_and_golds_agree(shared_data: Path, monkeypatch, capsys):
    """5,276 labelled solutions and 500 golds, by math-verify alone and with shortcuts."""
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(shared_data), "--timeout-s", "60"])
    assert command.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("5276/5276 agree, 0 unverifiable") == 2
    assert printed.count("500/500 agree, 0 unverifiable") == 4


def test_the_command_fails_where_labels_disagree(tmp_path: Path, monkeypatch, capsys):
    solution = {"is_correct": True, "solution": "A: 4"}
    row = {"ground_truth": "A: 5", **dict.fromkeys(command.MODELS, solution)}
    (tmp_path / command.GSM8K_FILE).write_text(json.dumps(row))
    (tmp_path / command.MATH500_FILE).write_text(json.dumps({"answer": "5", "solution": r"\boxed{5}"}))
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(tmp_path)])
    assert command.main() == 1
    assert "0/4 agree" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit):
        command.main()
    assert "--data-dir" in capsys.readouterr().err
