"""What runs in a sandboxed process: a program, a program's functions on call, or the tests that call them.

The program of the policy and the tests of the data set never share a process. Tests run in one of their own and reach the
program through a pipe, as calls with plain data; expected outputs of whole programs stay in the parent. So a program can
neither read what is expected nor touch what decides. Standard library only.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
import sys
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from lit_tpgrpo.verify.code.isolation import confine
from lit_tpgrpo.verify.code.values import decode, encode

if TYPE_CHECKING:
    import ast

FAILED, MEMORY, OUTPUT, DENIED, ENDED = 1, 77, 78, 79, 80
"""Exit codes: an exception, out of memory, too much output, something the sandbox refuses, a program that ended while called.

A program can exit with any of them; all mean that it has not passed.
"""


def main() -> None:
    """Confine this process and do its job: ``program``, ``calls``, ``tests`` or ``probe``."""
    job = json.loads(sys.argv[1])
    sys.argv[1:] = []
    code = _read_all(job["code"]) if "code" in job else ""
    sys.set_int_max_str_digits(0)
    walls = confine(job["cpu_s"], job["memory_mb"], job["site_packages"])
    if job["role"] == "probe":
        print(json.dumps(walls), flush=True)
    elif job["role"] == "program":
        _guarded(lambda: _run(json.loads(code), "__main__"))
    elif job["role"] == "calls":
        _guarded(lambda: _serve_calls(json.loads(code), job["calls"], job["replies"]))
    else:
        _guarded(lambda: _run_tests(json.loads(code), job))


def _read_all(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode("utf-8", "surrogatepass")


def _guarded(act: Callable[[], object]) -> None:
    """Turn an exception into an exit code; ``sys.exit`` keeps its own."""
    try:
        act()
    except MemoryError:
        os._exit(MEMORY)
    except OSError as error:
        sys.exit(DENIED if error.errno in (errno.EPERM, errno.EACCES) else FAILED)
    except Exception:
        sys.exit(FAILED)


def _run(sources: list[str], name: str) -> types.ModuleType:
    """Run prelude and program in a module of this name."""
    prelude, code = sources
    module = types.ModuleType(name)
    sys.modules[name] = module
    # On its own, not before the code in one text: that may begin with an import from __future__.
    exec(compile(prelude, "prelude.py", "exec"), module.__dict__)
    exec(compile(code, "solution.py", "exec"), module.__dict__)
    return module


# ---- the program's functions, on call ----


def _serve_calls(sources: list[str], calls: int, replies: int) -> None:
    module = _run(sources, "solution")
    with os.fdopen(calls, "rb") as lines:
        for line in lines:
            name, args, kwargs = decode(line)
            reply = _reply(lambda: _function(module, name)(*args, **kwargs))  # noqa: B023 called at once
            while reply:
                reply = reply[os.write(replies, reply) :]


def _reply(call: Callable[[], Any]) -> bytes:
    try:
        return encode(("value", call()))
    except MemoryError:
        os._exit(MEMORY)
    except Exception as error:
        return encode(("raised", type(error).__name__))


def _function(module: types.ModuleType, name: str) -> Callable[..., Any]:
    """Return a function of the program, or the method of its class ``Solution``, of a new object for each call."""
    return getattr(module, name) if hasattr(module, name) else getattr(module.__dict__["Solution"](), name)


# ---- the tests ----


class _Remote:
    """A function of the program, in the process of the tests."""

    def __init__(self, name: str, calls: int, replies: int, max_bytes: int) -> None:
        self._name, self._calls, self._replies, self._max_bytes = name, calls, replies, max_bytes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        question = encode([self._name, args, kwargs])
        try:
            while question:
                question = question[os.write(self._calls, question) :]
        except BrokenPipeError:
            self._ended()
        kind, content = decode(self._read_line())
        if kind == "value":
            return content
        raise _exception(str(content))

    def _read_line(self) -> bytes:
        received = b""
        while not received.endswith(b"\n"):
            chunk = os.read(self._replies, 65536)
            if not chunk:
                self._ended()
            received += chunk
            if len(received) > self._max_bytes:
                os._exit(OUTPUT)
        return received

    def _ended(self) -> NoReturn:
        os._exit(ENDED)  # no exception: a test that expects one must not take it for that


def _exception(name: str) -> Exception:
    """Return the builtin exception of this name, which a test may expect, or a RuntimeError."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError:
        with contextlib.suppress(TypeError):  # some cannot be built from a text
            return kind(f"the program raised {name}")
    return RuntimeError(f"the program raised {name}")


def _run_tests(tests: dict[str, Any], job: dict[str, Any]) -> None:
    import ast  # the other roles start without it

    def remote(name: str) -> _Remote:
        return _Remote(name, job["calls"], job["replies"], job["max_bytes"])

    for args, expected in tests["cases"]:
        if not _same(remote(tests["function"])(*args), expected, tests["wrapped"]):
            sys.exit(FAILED)
    if tests["code"]:
        tree = ast.parse(tests["code"])
        namespace: dict[str, Any] = {name: remote(name) for name in _names_of_the_program(ast.walk(tree))}
        exec(compile(tree, "tests.py", "exec"), namespace)
        if "check" in namespace and tests["function"]:
            namespace["check"](remote(tests["function"]))
    os.write(job["verdict"], tests["nonce"].encode())


def _same(value: Any, expected: Any, wrapped: bool) -> bool:
    """Compare a returned value with one from JSON, which has no tuples; if ``wrapped``, it may be in a list of one."""
    value = json.loads(json.dumps(value)) if isinstance(value, tuple | list | dict) else value
    return value == expected or (wrapped and isinstance(expected, list) and len(expected) == 1 and value == expected[0])


def _names_of_the_program(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that tests use without defining them: functions of the program."""
    import ast

    used, defined = set(), set(dir(builtins))
    for node in nodes:
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
    return used - defined
