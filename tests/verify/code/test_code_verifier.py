"""Programs against unit tests, in real processes: each form of gold, each way to fail, each limit."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lit_tpgrpo import CodeVerifier, FieldMap, MemoryProblems
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.text.answers import AnswerForm
from lit_tpgrpo.verify.code import sandbox as sandbox_module
from lit_tpgrpo.verify.code import verifier as verifier_module
from lit_tpgrpo.verify.code.process import Limits, SandboxedProcess
from lit_tpgrpo.verify.code.sandbox import Ending, _watch
from lit_tpgrpo.verify.code.verifier import same_output

C, I, U, UNDECIDED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE, Outcome.UNDECIDED  # noqa: E741

SUM = json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7"]})
SUM_PROGRAM = "a, b = map(int, input().split())\nprint(a + b)"
ADD = json.dumps({"test_list": ["assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]"]})
ADD_PROGRAM = "def add(a, b):\n    return a + b"


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    verifier = CodeVerifier(timeout_s=20.0)
    yield verifier
    verifier.close()


def outcome(verifier: CodeVerifier, gold: str, program: str) -> tuple[Outcome, str]:
    """The outcome of one program, and the counters that say why."""
    verifier.metrics()
    (one,) = verifier.verify_all([(gold, program)])
    counts = verifier.metrics()
    return one, ",".join(n for n, count in counts.items() if count and n not in ("pairs", one.value))


FORMS = {
    "APPS, whole programs": (SUM, SUM_PROGRAM, "print(3)"),
    "APPS, a function": (
        json.dumps({"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [[3], [[1, 2]]]}),
        ADD_PROGRAM,
        "def add(a, b):\n    return 3",
    ),
    "LiveCodeBench, whole programs": (
        json.dumps([{"input": "1 2", "output": "3", "testtype": "stdin"}]),
        SUM_PROGRAM,
        "print(4)",
    ),
    "LiveCodeBench, a method": (
        json.dumps(
            [
                {"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional", "metadata": {"func_name": "push"}},
                {"input": '["a"]\n"b"', "output": '["a", "b"]', "testtype": "functional", "metadata": {"func_name": "push"}},
            ]
        ),
        "from typing import List\nclass Solution:\n    def push(self, xs: List, x):\n        return tuple(xs + [x])",
        "class Solution:\n    def push(self, xs, x):\n        return xs",
    ),
    "DeepCoder, in a text": (
        json.dumps({"tests": json.dumps([{"input": "1 2", "output": "3", "testtype": "stdin_stdout"}])}),
        SUM_PROGRAM,
        "print(4)",
    ),
    "function and tests side by side": (
        json.dumps({"fn_name": "add", "tests": [{"input": "1\n2", "output": "3"}]}),
        ADD_PROGRAM,
        "def add(a, b):\n    return 4",
    ),
    "MBPP": (ADD, ADD_PROGRAM, "def add(a, b):\n    return a - b"),
    "MBPP, the list alone": (
        json.dumps(["import math", "assert math.isclose(half(1), 0.5)", "assert half(4) == 2"]),
        "def half(x):\n    return x / 2",
        "def half(x):\n    return 0.5",
    ),
    "HumanEval": (
        json.dumps(
            {
                "entry_point": "find_zero",
                "test": "def check(candidate):\n    import math\n    for xs in ([1, 2], [-6, 3]):\n"
                "        assert math.fabs(poly(xs, candidate(list(xs)))) < 1e-4\n"
                "    assert candidate.__class__ is not int, 'a name of the program: poly'",
            }
        ),
        "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\ndef find_zero(xs):\n    return -xs[0] / xs[1]",
        "def poly(xs, x):\n    return xs[0] + xs[1] * x\ndef find_zero(xs):\n    return 1.0",
    ),
    "Python code": (
        "def test(values):\n    assert sorted_pairs(values) == {('a', 1): {2, 3}}\ntest([('a', 1), 2, 3])\n"
        "try:\n    sorted_pairs(None)\n    assert False\nexcept TypeError:\n    pass",
        "def sorted_pairs(values):\n    return {values[0]: set(values[1:])}",
        "def sorted_pairs(values):\n    return {('a', 1): {2, 3}}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_gold_tells_right_from_wrong(verifier: CodeVerifier, form: str):
    gold, right, wrong = FORMS[form]
    assert verifier.verify_all([(gold, right), (gold, wrong)]) == [C, I]


@pytest.mark.parametrize(
    ("gold", "program", "expected"),
    [
        (SUM, "a b", (I, "")),
        (SUM, "print(1 // 0)", (I, "")),
        (SUM, f"{SUM_PROGRAM}\nraise ValueError", (I, "")),
        (SUM, f"{SUM_PROGRAM}\nimport sys\nsys.exit(3)", (I, "")),
        (SUM, f"{SUM_PROGRAM}\nimport sys\nsys.exit()", (C, "")),
        (SUM, f"import sys\n{SUM_PROGRAM}\nprint('debug', file=sys.stderr)", (C, "")),
        (SUM, "if __name__ == '__main__':\n    import threading\n    threading.stack_size(2**26)\n"
         "    t = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\n    t.start()", (C, "")),
        (SUM, "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (2**28, -1))\n" + SUM_PROGRAM, (C, "")),
        (SUM, "import sys, math, collections, itertools, heapq, bisect, functools, decimal, re, random, string\n"
         "from typing import *\n" + SUM_PROGRAM, (C, "")),
        (SUM, "def f(): return f()\nf()", (I, "")),
        (SUM, "", (I, "")),
        (SUM, "x = ['a' * 10**7] * 10 + ['a' * 10**10]", (U, "memory")),
        (SUM, "while True:\n    print('x' * 1000)", (U, "output")),
        (SUM, "import ctypes\nctypes.string_at(0)", (U, "crash")),
        (SUM, "#" * 100_001, (U, "too_long")),
        (SUM, "open('notes.txt', 'w').write('x')", (U, "denied")),
        (ADD, "def add(a, b):\n    return 'x' * 2_000_000", (U, "output")),
        (ADD, "def add(a, b):\n    return bytearray(10**10)", (U, "memory")),
        (ADD, "def add(a, b):\n    return lambda: 3", (I, "")),
        (ADD, "def add(a, b):\n    xs = []\n    for _ in range(10**5):\n        xs = [xs]\n    return xs", (I, "")),
        (ADD, "def sub(a, b):\n    return a - b", (I, "")),
        (ADD, "def add(a):\n    return a", (I, "")),
        (ADD, f"{ADD_PROGRAM}\nprint(input())", (I, "")),  # no input where functions are called
        (ADD, f"{ADD_PROGRAM}\nif __name__ == '__main__':\n    raise ValueError", (C, "")),
        (ADD, "class Int(int):\n    pass\ndef add(a, b):\n    return Int(a + b) if a == 1 else a + b", (C, "")),
    ],
)  # fmt: skip
def test_what_a_program_does_decides(verifier: CodeVerifier, gold: str, program: str, expected: tuple[Outcome, str]):
    assert outcome(verifier, gold, program) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gold", "program"),
    [
        (SUM, "while True:\n    pass"),
        (SUM, "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass"),
        (SUM, "import time\ntime.sleep(10**6)"),
        (SUM, "import threading\nthreading.Event().wait()"),
        (SUM, "import os\nr, w = os.pipe()\nos.read(r, 1)"),
        # Output now and then is no work.
        (SUM, "import time\nfor _ in range(40):\n    print('x', flush=True)\n    time.sleep(0.1)"),
        # Threads that wait for one another all the time look like ones that wait for a processor.
        (SUM, "import threading, time\nfor _ in range(50):\n    threading.Thread(target=lambda: [time.sleep(0.01) "
         "for _ in range(10**6)]).start()"),
        (ADD, "def add(a, b):\n    while True:\n        pass"),
        (ADD, "import time\ndef add(a, b):\n    time.sleep(10**6)"),
    ],
)  # fmt: skip
def test_a_program_that_does_not_end_is_wrong_whether_it_works_or_waits(gold: str, program: str):
    verifier = CodeVerifier(timeout_s=1.0, wall_timeout_s=1000.0)
    try:
        assert outcome(verifier, gold, program) == (U, "timeout")
    finally:
        verifier.close()


def unlucky(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, times: int) -> None:
    """Have the next so many processes get a signal from outside as soon as they are started."""
    start, left = SandboxedProcess.__init__, iter(range(times))

    def started(self, *args, **kwargs):
        start(self, *args, **kwargs)
        if next(left, None) is not None:
            os.kill(self.pid, number)

    monkeypatch.setattr(SandboxedProcess, "__init__", started)


@pytest.mark.parametrize("gold", [SUM, ADD])
def test_a_program_killed_from_outside_is_run_again_and_then_undecided(
    verifier: CodeVerifier, monkeypatch: pytest.MonkeyPatch, gold: str
):
    program = SUM_PROGRAM if gold == SUM else ADD_PROGRAM
    with monkeypatch.context() as patch:
        unlucky(patch, signal.SIGKILL, 1)
        assert outcome(verifier, gold, program) == (C, "retries")
    with monkeypatch.context() as patch:
        unlucky(patch, signal.SIGKILL, 100)
        assert outcome(verifier, gold, program) == (UNDECIDED, "killed,retries")
    assert outcome(verifier, gold, program) == (C, "")


@pytest.mark.slow
def test_a_program_that_does_not_get_to_run_is_undecided(monkeypatch: pytest.MonkeyPatch):
    verifier = CodeVerifier(timeout_s=0.1, wall_timeout_s=2.1)
    unlucky(monkeypatch, signal.SIGSTOP, 2)
    try:
        assert outcome(verifier, SUM, SUM_PROGRAM) == (UNDECIDED, "stalled,retries")
    finally:
        verifier.close()


class Simulated:
    """A process that never ends, of whose time so much goes to work and to waiting for a processor in each second."""

    stdout, output = None, b""

    def __init__(self, cpu: float, delay: float, clock: list[float]) -> None:
        self.cpu, self.delay, self.clock = cpu, delay, clock

    def ended(self) -> bool:
        return False

    def sample(self) -> tuple[float, float, bool]:
        return self.cpu * self.clock[0], self.delay * self.clock[0], False


@pytest.mark.parametrize(
    ("processes", "ending", "seconds"),
    [
        ([(0.0, 0.0)], Ending.TIMEOUT, 5),  # asleep
        ([(0.1, 0.9)], Ending.STALLED, 50),  # starved
        ([(0.1, 0.4)], Ending.TIMEOUT, 10),  # half asleep
        ([(0.0, 0.0), (0.1, 0.9)], Ending.STALLED, 50),  # tests that wait for a starved program
        ([(0.0, 0.0), (0.0, 0.0)], Ending.TIMEOUT, 5),  # tests that wait for one that sleeps
    ],
)
def test_sleep_is_told_from_starvation(monkeypatch: pytest.MonkeyPatch, processes, ending: Ending, seconds: int):
    clock = [0.0]
    monkeypatch.setattr(sandbox_module.time, "monotonic", lambda: clock[0])

    def tick(process, limit):
        clock[0] += 0.25
        return False

    monkeypatch.setattr(sandbox_module, "_wait_for_output", tick)
    simulated = [Simulated(cpu, delay, clock) for cpu, delay in processes]
    assert _watch(simulated, Limits(5, 1024, 1000, 5.0, 50.0, False)) is ending  # pyright: ignore[reportArgumentType]
    assert clock[0] == pytest.approx(seconds, abs=0.51)


def test_nothing_is_left_behind(verifier: CodeVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = set(psutil.Process().children(recursive=True)), set(os.listdir("/proc/self/fd"))
    programs = [SUM_PROGRAM, "print(", "import os\nos.mkdir('d')", "while True:\n    print('x' * 999)"]
    assert verifier.verify_all([(SUM, p) for p in programs] + [(ADD, ADD_PROGRAM)]) == [C, I, U, U, C]
    assert list(tmp_path.iterdir()) == []
    assert (set(psutil.Process().children(recursive=True)), set(os.listdir("/proc/self/fd"))) == before


@pytest.mark.slow
def test_close_ends_what_runs_and_the_verifier_can_be_used_again():
    verifier = CodeVerifier(timeout_s=1000.0)
    errors: list[BaseException] = []

    def verify() -> None:
        try:
            verifier.verify_all([(SUM, "while True:\n    pass")])
        except RuntimeError as error:
            errors.append(error)

    before = set(psutil.Process().children())
    thread = threading.Thread(target=verify)
    thread.start()
    while not (verifier._sandbox and verifier._sandbox._running):
        thread.join(0.01)
    verifier.close()
    thread.join()
    assert "the verifier was closed while it ran programs" in str(errors[0])
    assert set(psutil.Process().children()) == before
    assert verifier.verify_all([(SUM, SUM_PROGRAM)]) == [C]
    verifier.close()
    verifier.close()


def test_metrics_count_every_pair_and_start_again(verifier: CodeVerifier):
    verifier.metrics()
    pairs = [(SUM, SUM_PROGRAM), (SUM, SUM_PROGRAM), (SUM, None), (SUM, "  "), ("5", SUM_PROGRAM), (SUM, "#" * 100_001)]
    assert verifier.verify_all(pairs) == [C, C, I, I, U, U]
    counts = verifier.metrics()
    nonzero = {name: count for name, count in counts.items() if count}
    assert nonzero == {"pairs": 6, "correct": 2, "incorrect": 2, "unverifiable": 2, "too_long": 1, "unreadable_gold": 1}
    assert verifier.metrics() == dict.fromkeys(counts, 0)


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ("42", "expected unit tests as JSON with inputs and outputs, .* got '42'"),
        ("print(1)", "without an assert"),
        ("assert (", "expected unit tests"),
        (json.dumps({"inputs": [], "outputs": []}), "got none: an empty list would make any program correct"),
        (json.dumps([]), "got none"),
        (json.dumps({"inputs": ["1"], "outputs": []}), "expected unit tests"),
        (json.dumps({"test_list": []}), "without an assert"),
        (json.dumps({"test": "def check(candidate):\n    assert candidate(1)"}), "expected an entry_point"),
        (json.dumps({"answer": 3}), "got an object with answer"),
        (
            json.dumps({"fn_name": "f", "inputs": ["1"], "outputs": [1]}),
            "expected a list of arguments for each call of f",
        ),
        (json.dumps([{"input": "1", "output": "1", "testtype": "functional"}]), "expected the name of the function"),
        (json.dumps([{"input": "1", "output": "1"}, {"input": "1", "output": "1", "fn_name": "f"}]), "one function"),
        (json.dumps({"inputs": [1], "outputs": ["1"]}), "expected standard input and output as texts, got 1"),
    ],
)
def test_golds_without_tests_are_refused(gold: str, message: str):
    with pytest.raises(InputError, match=message):
        CodeVerifier().verify_all([(gold, SUM_PROGRAM)])


def test_tests_come_from_a_column_of_a_table_as_they_are():
    rows = [{"prompt": "Add.", "test_list": ["assert add(1, 2) == 3"]}, {"prompt": "Sum.", "test_list": SUM}]
    source = MemoryProblems(rows, columns=FieldMap(answer="test_list"), answer_form=AnswerForm.VERBATIM)
    pairs = [(p.answer, code) for p, code in zip(source.load(), (ADD_PROGRAM, SUM_PROGRAM), strict=True)]
    assert CodeVerifier().verify_all(pairs) == [C, C]
    for empty in ([], {}, 3, None):
        with pytest.raises(InputError, match="test_list"):
            MemoryProblems(
                [{"prompt": "Add.", "test_list": empty}],
                columns=FieldMap(answer="test_list"),
                answer_form=AnswerForm.VERBATIM,
            ).load()


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("3\n", "3", True),
        ("  3 \n\n", "3\n", True),
        ("a  b", "a b", True),
        ("1.0", "1.00", True),
        ("1e3", "1000", True),
        ("0.3333", "0.3333333", False),
        ("1 2", "1\n2", False),
        ("yes", "YES", False),
        ("", "3", False),
        ("3\n3", "3", False),
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("inf", "Infinity", True),
        ("-INF", "-infinity", True),
        ("-0.0", "0", True),
        ("+5", "5", True),
        (".50", "0.5", True),
        ("3.", "3", True),
        ("2.5E-3", "0.0025", True),
        ("007", "007", True),
        ("11", "0011", False),  # codes, strings of bits
        ("0011", "11", False),
        ("-07", "-7.0", False),
        ("00", "0", False),
        ("1_000", "1000", False),  # a number to Python alone
        ("1000", "1_0_00", False),
        ("\uff11\uff12", "12", False),  # digits of other scripts
        ("\u0663", "3", False),
        ("snan", "sNaN", False),
        ("1e9999999999999999999999", "2e9999999999999999999999", False),  # beyond what decimals can hold
    ],
)
def test_outputs_are_compared_by_words_and_exact_numbers(output: str, expected: str, same: bool):
    assert same_output(output, expected) is same


def test_settings_are_checked():
    for name in ("workers", "timeout_s", "max_output_bytes", "max_program_chars"):
        with pytest.raises(ConfigError, match=f"{name} must be positive, got 0"):
            CodeVerifier(**{name: 0})
    with pytest.raises(ConfigError, match="memory_mb must be at least 128"):
        CodeVerifier(memory_mb=64)
    with pytest.raises(ConfigError, match=r"wall_timeout_s must be at least 11.0 .*got 10.0"):
        CodeVerifier(wall_timeout_s=10.0)


def test_a_system_without_isolation_is_refused_and_allowed_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verifier_module, "walls", lambda: {"namespaces": True, "files": False, "system calls": False})
    with pytest.raises(
        ConfigError, match=r"cannot filter their system calls \(isolation: namespaces\): run it on Linux"
    ):
        CodeVerifier()
    with pytest.warns(UserWarning, match="programs can use the network") as warned:
        assert CodeVerifier(allow_unisolated=True).verify_all([(SUM, SUM_PROGRAM)]) == [C]
    assert any("no Landlock" in str(w.message) for w in warned)


LEETCODE = json.dumps(
    {"fn_name": "double", "tests": [{"input": "[1, 2]", "output": "[2, 4]", "testtype": "functional"}]}
)
LEETCODE_PROGRAM = (
    "from __future__ import annotations\n\nclass Solution:\n"
    "    def double(self, items: list[int]) -> list[int]:\n        return [floor(2 * i) for i in items]"
)


def test_a_prelude_runs_before_each_program_in_its_namespace():
    """Also before one that begins with an import from __future__, which must be a text's first statement."""
    assert CodeVerifier(timeout_s=20.0).verify_all([(LEETCODE, LEETCODE_PROGRAM)]) == [I]
    with_prelude = CodeVerifier(timeout_s=20.0, prelude="from math import *")
    program = "from __future__ import annotations\nprint(floor(float(input()[0])) + 2)"
    assert with_prelude.verify_all([(LEETCODE, LEETCODE_PROGRAM), (SUM.replace("3 4", "5 2"), program)]) == [C, C]
    assert with_prelude.settings["prelude"] == "from math import *"
    with pytest.raises(ConfigError, match="prelude must be Python code"):
        CodeVerifier(prelude="from math import")


def test_the_element_of_an_expected_list_is_that_list_in_apps_alone(verifier: CodeVerifier):
    program = "def f(a):\n    return a"
    apps = json.dumps({"fn_name": "f", "inputs": [[3]], "outputs": [[3]]})
    live = json.dumps({"fn_name": "f", "tests": [{"input": "3", "output": "[3]", "testtype": "functional"}]})
    assert verifier.verify_all([(apps, program), (live, program)]) == [C, I]
