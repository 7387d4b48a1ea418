"""Read the unit tests of a gold: JSON of the forms that public data sets use, or Python code with assertions.

- APPS, TACO: ``{"inputs": [...], "outputs": [...]}``, with ``"fn_name"`` for a function that is called;
- LiveCodeBench, DeepCoder: ``[{"input": ..., "output": ..., "testtype": "stdin" or "functional"}, ...]``, the function's
  name in ``metadata.func_name``, or beside the list: ``{"fn_name": ..., "tests": [...]}``;
- MBPP: ``{"test_list": ["assert ..."], "test_imports": [...]}``, or the list alone;
- HumanEval: ``{"test": "def check(candidate): ...", "entry_point": "..."}``;
- any other: Python code with ``assert``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from lit_tpgrpo.errors import InputError


@dataclass(frozen=True, slots=True)
class UnitTests:
    """The tests of one problem: of a whole program, or of functions.

    Args:
        programs: pairs of standard input and expected standard output.
        function: the function that ``calls`` and a ``check(candidate)`` in ``code`` are about.
        calls: pairs of arguments and expected value.
        code: Python code that raises if a test fails.
        wrapped: the expected values of ``calls`` may be in a list of one, as some of APPS are.
    """

    programs: tuple[tuple[str, str], ...] = ()
    function: str = ""
    calls: tuple[tuple[list[Any], Any], ...] = ()
    code: str = ""
    wrapped: bool = False

    @property
    def size(self) -> int:
        """Number of calls and assertions that run in one process."""
        asserts = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(self.code))) if self.code else 0
        return max(1, len(self.calls) + asserts)


@lru_cache(maxsize=512)
def read_unit_tests(gold: str) -> UnitTests:
    """Read a gold; see the module.

    Raises:
        InputError: it holds no test that can be read.

    >>> read_unit_tests('{"inputs": ["1 2"], "outputs": ["3"]}').programs
    (('1 2', '3'),)
    """
    try:
        content = json.loads(gold)
    except (ValueError, RecursionError):
        return _assertions([gold])
    try:
        return _read(content)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{_EXPECTED}, got {gold[:120]!r}") from error


_EXPECTED = (
    "expected unit tests as JSON with inputs and outputs, input and output, test_list, or test and entry_point, or as Python "
    "code with assert"
)


def _read(content: Any) -> UnitTests:
    if isinstance(content, str):
        return read_unit_tests(content)
    if isinstance(content, list) and content and all(isinstance(item, str) for item in content):
        return _assertions(content)
    if isinstance(content, list):
        return _input_output(content, "")
    name = content.get("fn_name") or content.get("func_name") or content.get("entry_point") or ""
    if "inputs" in content:
        inputs, outputs = content["inputs"], content["outputs"]
        return replace(_pairs(list(zip(inputs, outputs, strict=True)), name), wrapped=bool(name))
    if "test_list" in content:
        imports = content.get("test_imports") or []
        setup = content.get("test_setup_code") or ""
        return _assertions([*imports, setup, *content["test_list"]])
    if "test" in content:
        code = _assertions([content["test"]]).code
        if "def check(" in code and not name:
            raise InputError("expected an entry_point beside tests with check(candidate)")
        return UnitTests(function=name, code=code)
    for key in ("tests", "test_cases", "input_output"):
        if key in content:
            inner = content[key]
            inner = json.loads(inner) if isinstance(inner, str) else inner
            return (
                _input_output(inner, name)
                if isinstance(inner, list) and not isinstance(inner[0], str)
                else _read(inner)
            )
    raise InputError(f"{_EXPECTED}, got an object with {', '.join(map(str, content)) or 'nothing'}")


def _input_output(items: Sequence[Mapping[str, Any]], name: str) -> UnitTests:
    """Read items with input and output; functional ones are texts with a JSON value a line, or values themselves."""
    names = {item.get("fn_name") or (item.get("metadata") or {}).get("func_name") or name for item in items}
    kinds = {item.get("testtype") or item.get("type") or ("functional" if names != {""} else "stdin") for item in items}
    if len(names) > 1 or len(kinds) > 1:
        raise InputError(
            f"expected tests of one kind and one function, got {sorted(kinds)} of {sorted(map(str, names))}"
        )
    if kinds <= {"stdin", "stdin_stdout"}:
        return _pairs([(item["input"], item["output"]) for item in items], "")
    if names == {""}:
        raise InputError("expected the name of the function that is tested in fn_name or metadata.func_name")

    def value(given: Any) -> Any:
        return json.loads(given) if isinstance(given, str) else given

    def arguments(given: Any) -> list[Any]:
        return [json.loads(line) for line in given.splitlines() if line.strip()] if isinstance(given, str) else given

    return _pairs([(arguments(item["input"]), value(item["output"])) for item in items], names.pop())


def _pairs(pairs: Sequence[tuple[Any, Any]], name: str) -> UnitTests:
    if not pairs:
        raise InputError(f"{_EXPECTED}, got none: an empty list would make any program correct")
    if name:
        if not name.isidentifier() or not all(isinstance(given, list) for given, _ in pairs):
            raise InputError(f"expected a list of arguments for each call of {name}")
        return UnitTests(function=name, calls=tuple(pairs))
    return UnitTests(programs=tuple((_lines(given), _lines(expected)) for given, expected in pairs))


def _lines(text: Any) -> str:
    """Return a program's input or output; some rows of APPS have a list of lines."""
    if isinstance(text, list):
        return "\n".join(map(str, text))
    if not isinstance(text, str):
        raise InputError(f"expected standard input and output as texts, got {text!r}")
    return text


def _assertions(parts: Sequence[str]) -> UnitTests:
    code = "\n".join(part for part in parts if part)
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{_EXPECTED}, got {code[:120]!r}") from error
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise InputError(f"{_EXPECTED}, got code without an assert: {code[:120]!r}")
    return UnitTests(code=code)
