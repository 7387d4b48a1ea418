"""What a program might try: to pass without being right, and to reach what is not its own. Each in a real process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lit_tpgrpo import CodeVerifier
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify.code.process import Limits
from lit_tpgrpo.verify.code.sandbox import Ending, Sandbox, walls
from lit_tpgrpo.verify.code.seccomp import _DENIED, filter_program

REPOSITORY = Path(__file__).parents[3]
SECRET = "expected-4711"
PROGRAM_GOLD = json.dumps({"inputs": ["1\n"], "outputs": [SECRET]})
CALL_GOLD = json.dumps({"fn_name": "f", "inputs": [[1], [2]], "outputs": [SECRET, "two"]})
TEST_GOLD = json.dumps({"test_list": [f"assert f(1) == {SECRET!r}", "assert f(2) == 'two' and f(1) != f(2)"]})
CHECK_GOLD = json.dumps({"entry_point": "f", "test": f"def check(candidate):\n    assert candidate(1) == {SECRET!r}\n"})

pytestmark = pytest.mark.skipif(not walls().get("system calls"), reason="this system has no seccomp filter")

WITHOUT_FUNCTION = {
    "exits": """
import sys
sys.exit(0)
""",
    "exits hard": """
import os
os._exit(0)
""",
    "prints what may be a marker": """
print('OK')
print('passed')
print('{"passed": true}')
print('1.0')
""",
    "writes to every descriptor": r"""
import os
for fd in range(3, 100):
    try:
        os.write(fd, b'passed\n' * 9)
    except OSError:
        pass
os._exit(0)
""",
    "answers calls before they are asked": r"""
import os
line = b'{"tuple": ["value", true]}\n' * 9
for fd in range(3, 100):
    try:
        os.write(fd, line)
    except OSError:
        pass
import time
time.sleep(0.3)
""",
    "answers with garbage": r"""
import os
for fd in range(3, 100):
    try:
        os.write(fd, b'{"bytes": 99999999999}\n[]\n\x00')
    except OSError:
        pass
os._exit(0)
""",
    "closes every descriptor": """
import os
os.closerange(3, 100)
""",
    "kills its parent": """
import os
os.kill(os.getppid(), 9)
""",
    "kills whom it can": """
import os
for pid in [-1, *range(2, 40000)]:
    try:
        os.kill(pid, 9)
    except OSError:
        pass
""",
    "leaves a daemon": """
import os
if os.fork() == 0:
    os.setsid()
    while True:
        pass
""",
    "is a fork bomb": """
import os
while True:
    os.fork()
""",
    "starts a program": """
import subprocess
subprocess.run(['true'], check=True)
""",
    "changes assert": """
import builtins
builtins.AssertionError = Exception
builtins.print = builtins.exec = lambda *a, **k: None
""",
    "registers an exit handler": """
import atexit, os
atexit.register(lambda: os._exit(0))
raise ValueError
""",
    "hooks exceptions": """
import sys, os
sys.excepthook = lambda *a: os._exit(0)
raise ValueError
""",
    "changes the harness": """
import sys
child = sys.modules['lit_tpgrpo.verify.code.child']
child._same = lambda *a: True
child._run_tests = lambda *a: None
child._reply = lambda call: child.encode(('value', True))
""",
    "looks for what is expected": """
import gc, sys
found = [o for o in gc.get_objects() if 'expected-' in str(o)[:10**6]]
frame = sys._getframe()
while frame:
    found += [v for v in frame.f_locals.values() if 'expected-' in str(v)]
    frame = frame.f_back
print(found[0])
""",
    "reads the tests from other processes": """
import os
for pid in os.listdir('/proc'):
    if pid.isdigit():
        print(open(f'/proc/{pid}/cmdline').read())
""",
    "writes a result file": """
open('result.json', 'w').write('{"passed": true}')
open('/tmp/result', 'w').write('1')
""",
    "ends itself by a timer of SIGKILL": r"""
import ctypes, struct
libc = ctypes.CDLL(None)
event = ctypes.create_string_buffer(struct.pack('QiiQ', 0, 9, 0, 0) + b'\0' * 64)
timer = ctypes.c_void_p()
assert libc.timer_create(0, event, ctypes.byref(timer)) == 0
libc.timer_settime(timer, 0, struct.pack('QQQQ', 0, 0, 0, 1), None)
while True:
    pass
""",
    "ends itself by a lower limit": """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (0, 0))
while True:
    pass
""",
    "ends itself with SIGKILL": """
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
""",
    "stops itself": """
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
""",
}
FUNCTIONS = {
    "is equal to everything": """
class E:
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return True
def f(x):
    return E()
""",
    "is a text that is equal to everything": """
class E(str):
    def __eq__(self, other):
        return True
    __hash__ = str.__hash__
    def __ne__(self, other):
        return True
    def __str__(self):
        return self
def f(x):
    return E()
""",
    "is a list that is equal to everything": """
class E(list):
    def __eq__(self, other):
        return True
    def __iter__(self):
        return iter('expected')
def f(x):
    return E()
""",
    "exits when called": """
import sys
def f(x):
    sys.exit(0)
""",
    "exits hard when called": """
import os
def f(x):
    os._exit(0)
""",
    "raises SystemExit of its own kind": """
class E(SystemExit, ValueError):
    pass
def f(x):
    raise E(0)
""",
    "raises AssertionError": """
def f(x):
    raise AssertionError
""",
    "changes its arguments' class": """
import json
json.dumps = lambda *a, **k: '{"tuple": ["value", true]}'
def f(x):
    return x
""",
    "is no function": """
f = 'expected'
""",
    "returns a not-a-number": """
def f(x):
    return float('nan')
""",
    "returns True": """
def f(x):
    return True
""",
}


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    verifier = CodeVerifier(timeout_s=3.0, wall_timeout_s=1000.0)
    yield verifier
    verifier.close()


@pytest.mark.parametrize("attack", WITHOUT_FUNCTION)
def test_no_program_passes_without_the_right_output(verifier: CodeVerifier, attack: str):
    program = WITHOUT_FUNCTION[attack]
    outcomes = verifier.verify_all([(PROGRAM_GOLD, program), (TEST_GOLD, program)])
    assert set(outcomes) <= {Outcome.INCORRECT, Outcome.UNVERIFIABLE}  # UNDECIDED would be a way out


@pytest.mark.parametrize("attack", FUNCTIONS)
def test_no_function_passes_without_the_right_value(verifier: CodeVerifier, attack: str):
    outcomes = verifier.verify_all([(gold, FUNCTIONS[attack]) for gold in (CALL_GOLD, TEST_GOLD)])
    assert set(outcomes) <= {Outcome.INCORRECT, Outcome.UNVERIFIABLE}


def test_the_right_ones_pass(verifier: CodeVerifier):
    """Or the tests above would show nothing."""
    function = f"def f(x):\n    return {{1: {SECRET!r}, 2: 'two'}}[x]"
    pairs = [(PROGRAM_GOLD, f"print({SECRET!r})"), *((gold, function) for gold in (CALL_GOLD, TEST_GOLD, CHECK_GOLD))]
    assert verifier.verify_all(pairs) == [Outcome.CORRECT] * 4


REFUSED = {
    "a socket": "import socket; socket.socket()",
    "a pair of sockets": "import socket; socket.socketpair()",
    "an address": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:80')",
    "a process": "import os; os.fork()",
    "another process": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "a pool": "import multiprocessing as m; m.Pool(1).map(abs, [1])",
    "a program": "import os; os.execv('/bin/true', ['true'])",
    "a signal to the parent": "import os; os.kill(os.getppid(), 0)",
    "a signal to itself": "import os; os.kill(os.getpid(), 10)",
    "a signal to its group": "import os; os.killpg(0, 10)",
    "limits of the parent": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "a limit of its own": "import resource; resource.prlimit(0, resource.RLIMIT_CPU, (1, 1))",
    "the parent's priority": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "the parent's processors": "import os; os.sched_setaffinity(os.getppid(), {0})",
    "an owner for signals": "import fcntl; fcntl.fcntl(1, fcntl.F_SETOWN, 1)",
    "a signal number": "import fcntl; fcntl.fcntl(1, 10, 9)",
    "the user's files": "open('/etc/passwd')",
    "the data set": f"open({str(REPOSITORY / 'README.md')!r})",
    "a folder": "import os; os.listdir('/')",
    "the parent's variables": "import os; open(f'/proc/{os.getppid()}/environ')",
    "the parent's memory": "import os; open(f'/proc/{os.getppid()}/mem')",
    "a new file": "open('new', 'w')",
    "a new folder": "import os; os.mkdir('new')",
    "a file in memory": "import os; os.memfd_create('x')",
    "a file in /dev/shm": "open('/dev/shm/x', 'w')",
    "a namespace": "import ctypes, os; r = ctypes.CDLL(None, use_errno=True).unshare(0x10000000); "
    "raise OSError(ctypes.get_errno(), '') if r else SystemExit",
    "io_uring": "import ctypes; r = ctypes.CDLL(None, use_errno=True).syscall(425, 8, ctypes.create_string_buffer(200)); "
    "raise OSError(ctypes.get_errno(), '') if r < 0 else SystemExit",
    "clone3": "import ctypes; r = ctypes.CDLL(None, use_errno=True).syscall(435, 0, 0); "
    "raise OSError(1 if ctypes.get_errno() == 38 else 0, '')",
    "a signal at its parent's end": "import ctypes; r = ctypes.CDLL(None, use_errno=True).prctl(1, 9); "
    "raise OSError(ctypes.get_errno(), '') if r else SystemExit",
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Limits(20, 1024, 100_000, 60.0, 1000.0, False))


@pytest.mark.parametrize("what", REFUSED)
def test_the_kernel_refuses(sandbox: Sandbox, what: str):
    """Each is denied with EPERM or EACCES. What needs files is refused by Landlock, where the kernel has it."""
    lines = f"try:\n    {REFUSED[what]}\nexcept OSError as error:\n    print('errno', getattr(error, 'reason', error).errno)"
    ending, output = sandbox.run_program(lines, "")
    assert (ending, output.strip()) in ((Ending.PASSED, "errno 1"), (Ending.PASSED, "errno 13"))


def test_a_program_gets_no_variable_no_descriptor_and_an_empty_folder(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "not for programs")
    monkeypatch.setenv("PYTHONSTARTUP", "not for programs")
    lines = (
        "import os, sys\nprint(sorted(os.environ))\nprint(sys.argv, sys.path == [p for p in sys.path if 'python' in p])\n"
        "def is_open(fd):\n    try:\n        return bool(os.fstat(fd))\n    except OSError:\n        return False\n"
        "print([fd for fd in range(64) if is_open(fd)])\nprint('lit-tpgrpo-code-' in os.getcwd())"
    )
    ending, output = sandbox.run_program(lines, "")
    assert ending is Ending.PASSED
    variables = [*(name for name in ("LD_LIBRARY_PATH", "PYTHONHOME") if name in os.environ), "LANG"]
    variables += ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED"]
    names, program, descriptors, folder = output.strip().splitlines()
    assert set(json.loads(names.replace("'", '"'))) <= {*variables, "LC_CTYPE"}
    assert (program, descriptors, folder) == ("['-c'] True", "[0, 1, 2]", "True")


def test_packages_can_be_imported_only_where_that_is_allowed():
    program = "import numpy\nprint(int(numpy.ones(3).sum()))"
    limits = {"cpu_s": 60, "memory_mb": 4096, "output_bytes": 1000, "idle_s": 60.0, "wall_s": 1000.0}
    assert Sandbox(Limits(**limits, site_packages=True)).run_program(program, "") == (Ending.PASSED, "3\n")
    assert Sandbox(Limits(**limits, site_packages=False)).run_program(program, "") == (Ending.FAILED, "")


def test_a_program_does_not_outlive_the_training_process(tmp_path: Path):
    """Not even one that sleeps, where training is killed."""
    code = (
        "import os, signal, threading\nfrom lit_tpgrpo.verify.code.sandbox import Sandbox, Limits\n"
        "box = Sandbox(Limits(20, 1024, 1000, 1000.0, 1000.0, False))\n"
        "run = threading.Thread(target=box.run_program, args=('print(1, flush=True)\\nimport time\\ntime.sleep(1000)', ''))\n"
        "run.start()\nwhile not (box._running and [*box._running][0].output):\n    run.join(0.01)\n"
        "print([*box._running][0].pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert run.returncode == -9, run.stderr
    pid = int(run.stdout)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=600)  # raises if it lives on


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_jumps_within_its_program_and_ends_with_an_answer(machine: str):
    program = filter_program(machine)
    assert len(program) < 4096  # BPF_MAXINSNS
    for index, (code, true, false, _) in enumerate(program):
        if code in (0x15, 0x35, 0x45):
            assert index + 1 + max(true, false) < len(program)
    assert program[-1][0] == 0x06
    column = ["x86_64", "aarch64"].index(machine)
    numbers = [numbers[column] for numbers in _DENIED.values() if numbers[column] is not None]
    assert len(numbers) == len(set(numbers))
