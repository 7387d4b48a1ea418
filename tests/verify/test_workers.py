"""The verifier's processes: bombs, crashes, kills, threads, forks, and what is left when a process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify.pool import PoolClosed, WorkerPool
from lit_tpgrpo.verify.verifier import MathVerifier
from lit_tpgrpo.verify.worker import PASSED_ON, Reply
from lit_tpgrpo.verify.worker_process import WorkerProcess, WorkerTimeout, _exit_error

C, I, U = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE  # noqa: E741
UNDECIDED = Outcome.UNDECIDED
REPOSITORY = Path(__file__).parents[2]
FREEZE = r"9^{9^{9^9}}"


@pytest.fixture
def own() -> Iterator[MathVerifier]:
    """One worker of its own, for tests that count or kill."""
    verifier = MathVerifier(workers=1, timeout_s=20.0)
    yield verifier
    verifier.close()


def sums(start: int, count: int) -> list[tuple[str, str | None]]:
    """Distinct pairs that need math-verify and are correct."""
    return [(f"x+{n}", f"{n}+x") for n in range(start, start + count)]


def children() -> set[psutil.Process]:
    """All that hang on this process, the dead that nobody has waited for included."""
    return set(psutil.Process().children(recursive=True))


@pytest.mark.slow
def test_bombs_come_back_and_the_others_are_right():
    verifier = MathVerifier(timeout_s=3.0, wall_timeout_s=1000.0, max_answer_chars=5000)
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
    for bomb, right in zip(bombs, sums(0, len(bombs)), strict=True):
        pairs += [("5", bomb), right, (right[0], "7/3")]
    try:
        assert verifier.verify_all(pairs) == [U, C, I] * len(bombs)
        assert verifier.verify_all([(FREEZE, "5")]) == [U]  # a gold may be one, too
        counts = verifier.metrics()
    finally:
        verifier.close()
    assert counts["unverifiable"] == 8
    assert counts["too_long"] == 1
    assert counts["timeout"] >= 3
    assert counts["respawns"] == counts["timeout"]


@pytest.mark.slow
def test_a_huge_answer_comes_back_also_without_the_length_limit():
    verifier = MathVerifier(workers=1, timeout_s=3.0, wall_timeout_s=1000.0, max_answer_chars=2_000_000)
    try:
        assert verifier.verify_all([("5", "1+" * 500_000 + "1"), ("x+1", "1+x")]) == [U, C]
    finally:
        verifier.close()


def test_memory_is_limited():
    before = children()
    verifier = MathVerifier(workers=1, timeout_s=20.0, memory_mb=256)
    try:
        assert verifier.verify_all(sums(0, 1)) == [C]
        (worker,) = children() - before
        assert worker.rlimit(psutil.RLIMIT_AS) == (256 * 2**20, 256 * 2**20)
    finally:
        verifier.close()


def test_a_worker_has_the_variables_that_it_needs_and_no_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLOUD_SECRET", "not for workers")
    monkeypatch.setenv("HF_TOKEN", "not for workers")
    monkeypatch.setenv("TZ", "UTC")
    verifier, before = MathVerifier(workers=1, timeout_s=20.0), children()
    try:
        assert verifier.verify_all(sums(0, 1)) == [C]
        (worker,) = children() - before
        variables = worker.environ()
    finally:
        verifier.close()
    own = {"PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    assert own <= variables.keys() <= {*PASSED_ON, *own, "LC_CTYPE"}  # the last: Python's own, in the C locale
    assert variables["TZ"] == "UTC"
    assert "not for workers" not in variables.values()


def test_a_worker_may_write_nothing_and_start_nothing_and_has_so_much_processor_time():
    verifier, before = MathVerifier(workers=1, timeout_s=20.0), children()
    try:
        assert verifier.verify_all(sums(0, 1)) == [C]
        (worker,) = children() - before
        for limit in (psutil.RLIMIT_FSIZE, psutil.RLIMIT_NPROC, psutil.RLIMIT_CORE):
            assert worker.rlimit(limit) == (0, 0)
        used, (soft, _) = sum(worker.cpu_times()[:2]), worker.rlimit(psutil.RLIMIT_CPU)
        assert 20 < soft <= used + 20 + 2
        assert verifier.verify_all(sums(1, 3)) == [C] * 3
    finally:
        verifier.close()


@pytest.mark.parametrize(
    ("act", "ends"),
    [
        ("open('x', 'w').write('x' * 100000)", "File too large"),
        pytest.param(
            "signal.setitimer(signal.ITIMER_PROF, 0)\nwhile True: pass", -signal.SIGXCPU, marks=pytest.mark.slow
        ),
        ("os.fork()", "Resource temporarily unavailable"),
    ],
)
def test_the_kernel_holds_the_limits(act: str, ends: str | int, tmp_path: Path):
    """What a formula might do that runs code in its worker; root may fork all the same."""
    if "fork" in act and os.getuid() == 0:
        act = f"os.setuid(65534)\n{act}"
    code = f"import os, signal\nfrom lit_tpgrpo.verify.worker import *\nlimit_resources(1024)\nallow_cpu(0.0)\n{act}"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    if isinstance(ends, int):
        assert run.returncode == ends
        assert isinstance(_exit_error(run.returncode), WorkerTimeout)
    else:
        assert ends in run.stderr


def test_macos_gets_no_limit_of_memory():
    """It refuses one below the hundreds of GB that it maps for any process: no worker would start."""
    code = "import sys\nfrom lit_tpgrpo.verify.worker import *\nsys.platform = 'darwin'\nlimit_resources(1)\nbytearray(10**8)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def misfortune(act: Callable[[psutil.Process], object], times: int) -> Callable[[WorkerProcess, str, str], Reply]:
    """``WorkerProcess.ask`` that does something to the first so many workers while they have a comparison to make."""
    ask, done = WorkerProcess.ask, []

    def unlucky(self: WorkerProcess, gold: str, answer: str) -> Reply:
        if len(done) < times:
            done.append(act(psutil.Process(self._process.pid)))
        return ask(self, gold, answer)

    return unlucky


@pytest.mark.parametrize(("times", "outcome"), [(1, C), (2, UNDECIDED)])
@pytest.mark.slow
def test_a_worker_killed_from_outside_is_tried_again_and_then_leaves_the_answer_undecided(
    own: MathVerifier, monkeypatch: pytest.MonkeyPatch, times: int, outcome: Outcome
):
    monkeypatch.setattr(WorkerProcess, "ask", misfortune(psutil.Process.kill, times))
    assert own.verify_all(sums(0, 1)) == [outcome]
    assert own.verify_all(sums(0, 1)) == [C]  # what was undecided is not remembered
    counts = own.metrics()
    assert (counts["undecided"], counts["killed"]) == (times - 1, times - 1)
    assert counts["respawns"] == times
    assert counts["unverifiable"] == 0


@pytest.mark.slow
def test_workers_that_do_not_get_to_run_leave_the_answer_undecided(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(WorkerProcess, "ask", misfortune(psutil.Process.suspend, 2))
    before = children()
    pool = WorkerPool(1, 1.0, 1.0, 1024)
    try:
        # A suspended worker has no processor time to use up, and its own alarms do not end it.
        assert pool.submit("1/2", "0.5").result() is Reply.STALLED
        assert children() == before
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("numbers", "reply"),
    [
        (
            (signal.SIGSEGV, signal.SIGSEGV),
            Reply.CRASH,
        ),  # a stack overflow: whoever writes such answers gets no way out
        ((signal.SIGSEGV, signal.SIGKILL), Reply.KILLED),
        ((signal.SIGTERM, signal.SIGABRT), Reply.KILLED),
        ((signal.SIGPROF,), Reply.TIMEOUT),  # the alarm of its processor time: not tried again
        ((signal.SIGALRM, signal.SIGALRM), Reply.STALLED),
    ],
    ids=str,
)
def test_what_ended_the_workers_decides_whose_fault_it_was(monkeypatch: pytest.MonkeyPatch, numbers, reply: Reply):
    signals, ask, read = iter(numbers), WorkerProcess.ask, WorkerProcess._read_line
    asked: set[WorkerProcess] = set()

    def ask_stopped(self: WorkerProcess, gold: str, answer: str) -> Reply:
        os.kill(self._process.pid, signal.SIGSTOP)  # or it might have replied before the signal comes
        asked.add(self)
        return ask(self, gold, answer)

    def read_after_signal(self: WorkerProcess, limit_s: float) -> bytes:
        if self in asked:  # it has the question: one that died before would have died while idle
            os.kill(self._process.pid, next(signals))
            os.kill(self._process.pid, signal.SIGCONT)
        return read(self, limit_s)

    monkeypatch.setattr(WorkerProcess, "ask", ask_stopped)
    monkeypatch.setattr(WorkerProcess, "_read_line", read_after_signal)
    pool = WorkerPool(1, 1.0, 60.0, 1024)
    try:
        assert pool.submit("1/2", "0.5").result() is reply
        assert pool.lost == len(numbers)
    finally:
        pool.close()


@pytest.mark.slow
def test_processor_time_is_what_counts_not_the_wall_clock():
    """A worker that is kept from running for longer than its limit still replies; one that computes as long is ended."""
    worker = WorkerProcess(1.0, 120.0, 1024)
    try:
        worker.wait_ready()
        os.kill(worker._process.pid, signal.SIGSTOP)
        threading.Timer(1.5, os.kill, (worker._process.pid, signal.SIGCONT)).start()
        assert worker.ask("1/2", "0.5") is Reply.CORRECT
        with pytest.raises(WorkerTimeout):
            worker.ask("5", FREEZE)
    finally:
        worker.dispose()


def test_killed_workers_are_replaced_and_no_answer_is_lost():
    before = children()
    verifier = MathVerifier(timeout_s=20.0)
    try:
        outcomes = {}
        for index, outcome in verifier.verify(sums(0, 60)):
            if not outcomes:
                for worker in children() - before:
                    worker.kill()
            outcomes[index] = outcome
        assert outcomes == dict.fromkeys(range(60), C)
        assert verifier.metrics()["respawns"] >= 1
    finally:
        verifier.close()


@pytest.mark.slow
def test_giving_up_an_iteration_cancels_what_waits():
    verifier = MathVerifier(workers=1, timeout_s=2.0)
    try:
        outcomes = verifier.verify([("x+1", "1+x"), *(("5", f"{n}+{FREEZE}") for n in range(20))])
        assert next(outcomes) == (0, C)
        outcomes.close()
        assert verifier.verify_all(sums(0, 1)) == [C]
        assert verifier.metrics()["respawns"] <= 2
    finally:
        verifier.close()


def test_close_leaves_no_process_and_may_be_called_twice():
    before, open_files = children(), psutil.Process().num_fds()
    verifier = MathVerifier(timeout_s=20.0)
    verifier.close()
    for start in (0, 10):
        assert verifier.verify_all(sums(start, 10)) == [C] * 10
        started = children() - before
        assert 1 <= len(started) <= 2
        verifier.close()
        verifier.close()
        assert not any(worker.is_running() for worker in started)
        assert psutil.Process().num_fds() == open_files


def test_closing_during_an_iteration_raises_in_it(own: MathVerifier):
    before = children()
    outcomes = own.verify([("x+1", "1+x"), ("5", FREEZE), *sums(1, 5)])
    assert next(outcomes) == (0, C)
    own.close()
    assert children() == before
    with pytest.raises(PoolClosed, match="call again"):
        list(outcomes)


def test_a_forgotten_verifier_takes_its_workers_along():
    before = children()
    verifier = MathVerifier(timeout_s=20.0)
    assert verifier.verify_all(sums(0, 1)) == [C]
    (worker,) = children() - before
    del verifier
    assert not worker.is_running()


def test_several_threads_at_once():
    verifier = MathVerifier(timeout_s=20.0, cache_size=0)
    results: dict[int, list[Outcome]] = {}

    def work(start: int) -> None:
        pairs = [pair for right in sums(start, 10) for pair in (right, (right[0], "1/7"))]
        results[start] = verifier.verify_all(pairs)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 3, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verifier.close()
    assert results == dict.fromkeys((0, 3, 6), [C, I] * 10)


def test_an_interrupt_at_the_terminal_leaves_the_workers_alone(own: MathVerifier):
    before = children()
    assert own.verify_all(sums(0, 1)) == [C]
    (worker,) = children() - before
    assert os.getpgid(worker.pid) != os.getpgid(0)  # not among those whom the terminal interrupts
    worker.send_signal(signal.SIGINT)
    assert own.verify_all(sums(1, 3)) == [C] * 3
    assert own.metrics()["respawns"] == 0


@pytest.mark.slow
def test_a_forked_copy_starts_workers_of_its_own(own: MathVerifier):
    assert own.verify_all(sums(0, 1)) == [C]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            own.close()  # not the parent's workers
            status = 0 if own.verify_all(sums(1, 3)) == [C] * 3 else 2
            own.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert own.verify_all(sums(4, 3)) == [C] * 3
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
        [sys.executable, str(main)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200
    )


def printed_workers(run: subprocess.CompletedProcess[str]) -> list[psutil.Process]:
    (pids,) = (line.split()[1:] for line in run.stdout.splitlines() if line.startswith("pids"))
    assert pids
    assert run.stdout.count("main script runs") == 1  # workers do not import it
    return [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]


def test_a_script_that_never_closes_leaves_nothing_behind(tmp_path: Path):
    run = run_script("v = MathVerifier(); print(v.verify_all([('x+1', '1+x')])); pids()", tmp_path)
    assert "CORRECT" in run.stdout, run.stderr
    assert run.returncode == 0
    assert printed_workers(run) == []


@pytest.mark.slow
def test_an_exception_ends_the_interpreter_in_spite_of_waiting_bombs(tmp_path: Path):
    script = "v = MathVerifier(timeout_s=3.0); i = v.verify([('x+1', '1+x'), *bombs]); next(i); pids(); 1 / 0"
    run = run_script(script, tmp_path)
    assert "ZeroDivisionError" in run.stderr
    assert printed_workers(run) == []


@pytest.mark.slow
def test_workers_die_with_a_parent_that_was_killed(tmp_path: Path):
    script = (
        "v = MathVerifier(timeout_s=1.0); i = v.verify([('x+1', '1+x'), *bombs]); next(i); pids()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = run_script(script, tmp_path)
    assert run.returncode == -signal.SIGKILL, run.stderr
    _, alive = psutil.wait_procs(printed_workers(run), timeout=1200)
    assert alive == []


def test_the_worker_speaks_json_lines_only():
    """Also where a library prints."""
    noisy = (
        "import lit_tpgrpo.verify.worker as worker\n"
        "load = worker.load_comparison\n"
        "worker.load_comparison = lambda: (print('noise'), load())[1]\n"
        "worker.serve(worker.load_pairs, 10.0, 60.0, 1024)"
    )
    run = subprocess.run(
        [sys.executable, "-c", noisy],
        input='["x+1", "1+x"]\n["5", "\\\\boxed{x^}"]\n',
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=1200,
    )
    assert [json.loads(line) for line in run.stdout.splitlines()] == [{"ready": True}, "correct", "unparsed"]
    assert "noise" in run.stderr


def test_the_worker_knows_no_torch():
    imports = "import sys, lit_tpgrpo.verify.worker as w; w.load_comparison(); print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", imports], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=1200
    )
    assert run.stdout == "False\n"


def test_a_worker_that_cannot_start_is_an_error_with_its_remedy(own: MathVerifier, monkeypatch, tmp_path: Path):
    broken = tmp_path / "math_verify.py"
    broken.write_text("raise ImportError('half an installation')")
    start = subprocess.Popen

    def without_math_verify(command, env, **options):
        return start(command, env={**env, "PYTHONPATH": f"{tmp_path}:{env['PYTHONPATH']}"}, **options)

    monkeypatch.setattr(subprocess, "Popen", without_math_verify)
    with pytest.raises(RuntimeError, match=r"half an installation.*install math-verify"):
        own.verify_all(sums(0, 1))
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: start([sys.executable, "-c", ""], **options))
    with pytest.raises(RuntimeError, match=r"3 workers in a row failed to start .* to see why"):
        own.verify_all(sums(0, 1))
