"""Every regular expression of our readers takes time in proportion to the text: counted in steps, not in seconds.

The patterns are collected from the modules and from the calls in their source: a new one is tested without being named.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lit_tpgrpo
from tests.linear.adversarial import UNITS, of_pattern
from tests.linear.counted_regex import TooManySteps, count

SHORT = 60
EXEMPT_MODULES = {
    "lit_tpgrpo.cli": "reads what the argument parser says of the user's own command line",
    "lit_tpgrpo.user_errors": "reads what libraries say of the user's own settings",
    "lit_tpgrpo.engines.vllm": "names of processes and environment variables",
}
WINDOWED = {
    "text.equations._CUT_BEFORE": 24,
    "text.equations._ITEM_MARK": 24,
    "text.equations._CUT_BEFORE_NAME": 24,
    "text.equations._CALLED": 24,
    "text.markers.SUPPOSES": 40,
    "text.markers.REJECTS": 40,
    "text.subjects._REASON": 80,
    "text.subjects._HELD": 80,
    "text.subjects._POINTER": 80,
    "text.subjects._PLAIN": 80,
    "judges.adoption._LEAD": 200,
    "text.subjects:71:17": 80,
    "verify.mutations._BASED": 200,
    "verify.mutations._NEUTRAL": 200,
    "verify.mutations._ASSIGNED": 200,
    "verify.mutations._MATRIX": 200,
}
"""Patterns that are applied to so many characters at most; the steps on those are bounded."""
MOST_STEPS_A_CHARACTER = 400
DYNAMIC = {
    ("judges.audit_sets", "search"): "a gold answer of at most 500 characters, at each place of a step",
    ("judges.generative.verdicts", "finditer"): "a literal",
    ("rollout.prompts", "search"): "a name of the configuration in the model's chat template",
    ("verify.mutations", "split"): "a literal or two, at each place of a gold",
}
"""Patterns that are put together when they are used: why they are linear."""


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(lit_tpgrpo.__path__, "lit_tpgrpo."):
        if not found.name.startswith(tuple(EXEMPT_MODULES)) and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def within(value: Any, name: str) -> Iterator[tuple[re.Pattern[str], str]]:
    if isinstance(value, re.Pattern):
        yield value, name
    elif isinstance(value, tuple | list):
        for place, inner in enumerate(value):
            yield from within(inner, f"{name}[{place}]")


def place(module: str, name: str) -> str:
    """What a name stands for: one with an underscore is its module's alone."""
    return f"{module}.{name}" if name.startswith("_") else name


def collected() -> dict[re.Pattern[str], tuple[str, set[str]]]:
    """The patterns with their names and the methods by which they are used; all methods where that is not plain."""
    named: dict[re.Pattern[str], str] = {}
    methods: defaultdict[str, set[str]] = defaultdict(set)
    inline: dict[re.Pattern[str], tuple[str, set[str]]] = {}
    dynamic: set[tuple[str, str]] = set()
    for module in modules():
        short = module.__name__.removeprefix("lit_tpgrpo.")
        for name, value in vars(module).items():
            for pattern, full in within(value, f"{short}.{name}"):
                named.setdefault(pattern, full)
        tree = ast.parse(inspect.getsource(module))
        called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        plain = {id(f.value) for f in called if isinstance(f, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id != "re":
                methods[place(short, node.value.id)].add(node.attr)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                methods[place(short, node.value.attr)].add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in plain:
                methods[place(short, node.id)].add("handed on")
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)):
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "re" and node.func.attr != "escape":
                what = node.args[0]
                if isinstance(what, ast.Constant) and node.func.attr != "compile":
                    inline[re.compile(what.value)] = f"{short}:{node.lineno}:{node.col_offset}", {node.func.attr}
                elif node.func.attr != "compile":
                    dynamic.add((short, node.func.attr))
    assert dynamic == set(DYNAMIC), "register patterns that are put together when used, with the reason they are linear"
    return inline | {
        p: (name, methods[place(*name.partition("[")[0].rpartition(".")[::2])]) for p, name in named.items()
    }


PATTERNS = {name: (pattern, methods) for pattern, (name, methods) in collected().items()}
assert len(PATTERNS) > 130


def uses(methods: set[str]) -> list[str]:
    """The ways in which a pattern has to be linear: anchored where it is never used otherwise."""
    anchored = methods & {"match", "fullmatch"}
    return (
        sorted(anchored)
        if anchored and methods <= {"match", "fullmatch", "pattern"}
        else ["finditer", *sorted(anchored)]
    )


def texts(pattern: re.Pattern[str], size: int) -> Iterator[str]:
    """Repeats of what the pattern looks for, behind its beginnings, with an end that it does not expect."""
    characters, parts = of_pattern(pattern)
    draw = random.Random(0)
    pairs = [
        a + b for a in draw.sample(parts, min(4, len(parts))) for b in draw.sample(characters, min(2, len(characters)))
    ]
    some = draw.sample(characters, min(12, len(characters))), draw.sample(parts, min(12, len(parts)))
    units = dict.fromkeys([" ", "\n", "1", "a", "1 ", "a ", *some[0], *some[1], *pairs, *draw.sample(UNITS, 4)])
    beginning = max(parts, key=len, default="")
    for unit in units:
        repeated = unit * (size // len(unit) + 1)
        yield f"{repeated}~"
        yield f"{repeated}1abc"
        if len(unit) == 1:
            yield f"{beginning}{repeated}~"


def superlinear(pattern: re.Pattern[str], ways: list[str]) -> list[tuple[str, str]]:
    """The texts on which four times the length takes more than five times the steps, for each way of use."""
    found = []
    for short, long in zip(texts(pattern, SHORT), texts(pattern, 4 * SHORT), strict=True):
        for way in ways:
            try:
                count(pattern, way, long, limit=5 * count(pattern, way, short, limit=10**5) + 400)
            except TooManySteps:
                found.append((way, short[:60]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
def test_four_times_the_text_takes_at_most_five_times_the_steps(name: str):
    pattern, methods = PATTERNS[name]
    if name in WINDOWED:
        size = WINDOWED[name]
        steps = {text[:size]: count(pattern, "search", text[-size:]) for text in texts(pattern, size)}
        assert max(steps.values()) <= MOST_STEPS_A_CHARACTER * size
    else:
        assert not superlinear(pattern, uses(methods))


CAREFUL = {
    r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z": "match",  # of a verdict, once
    r"\[asy\].*?\[/asy\]": "finditer",  # of decontamination, once
    r"\s*,\s*": "finditer",
    r"[\W_]*S?tep\s*(\d+)\b": "finditer",  # of audit sets, once
    r"(?>(?:\d+\+)*\d+)(?![a-z])": "finditer",  # like the equations' once
    r"(a|a)*b": "match",
    r"(?:a+)+b": "match",
    r"[ \t]*\(?[ \t]*mod": "match",
    r"a.*b.*c": "match",
}


@pytest.mark.parametrize("source", CAREFUL)
def test_patterns_that_hung_us_would_be_caught(source: str):
    assert superlinear(re.compile(source, re.DOTALL), [CAREFUL[source]])


@given(st.text(alphabet="ab1 ,\n(=", max_size=30), st.sampled_from(sorted(PATTERNS)))
@settings(max_examples=300, deadline=None)
def test_the_counting_matcher_ends_where_re_ends(text: str, name: str):
    """``count`` asserts it."""
    for way in ("match", "fullmatch", "search", "finditer"):
        assert count(PATTERNS[name][0], way, text) > 0


def test_steps_of_a_known_pattern():
    """``a*b`` on n letters a: from each of the n + 1 places all letters that follow, then b is tried after each: n² in all."""
    steps = [count(re.compile("a*b"), "search", "a" * n) for n in (10, 20, 40)]
    assert 3.5 < (steps[2] - steps[1]) / (steps[1] - steps[0]) < 4.5
    assert count(re.compile("a++b"), "match", "a" * 100) < 110
