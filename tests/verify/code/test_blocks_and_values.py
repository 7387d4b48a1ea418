"""The program of an answer block, and the data that passes between tests and program."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.verify.code.blocks import last_program
from lit_tpgrpo.verify.code.values import NotPlain, decode, encode


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```py\n1\n```\nbetter:\n``` python3 \n2\n```\n", "2\n"),
        ("```python\n1\n```\nIt prints\n```\n7\n```", "1\n"),  # the output is no program
        ("```python\n1\n```\n```bash\nls\n```", "1\n"),
        ("```\n1\n```\n```\n2\n```", "2\n"),
        ("```bash\nls\n```", None),
        ("~~~Python\n1\n~~~", "1\n"),
        ("````python\n```\n1\n```\n````", "```\n1\n```\n"),
        ("```python\n1", None),  # cut off
        ("```python\n1\n```\nand\n```python\n2", "1\n"),
        ("```python\r\n1\r\n```\r\n", "1\r\n"),
        ("  ```{.python}\n1\n  ```", "1\n"),
        ("    ```python\n1\n    ```", None),  # code of Markdown, not a fence
        ("```python\n```", ""),
        ("print(1)", None),
        ("`print(1)`", None),
        ("", None),
    ],
)
def test_the_last_python_block_is_the_program(text: str, program: str | None):
    assert last_program(text) == program


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.complex_numbers(
        allow_nan=False, allow_infinity=False
    ),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    | st.sets(st.integers() | st.text(), max_size=3) | st.frozensets(st.integers(), max_size=3),
    max_leaves=8,
)  # fmt: skip


def types_of(value: object) -> object:
    if isinstance(value, dict):
        return dict, [(types_of(k), types_of(v)) for k, v in value.items()]
    return (type(value), [types_of(v) for v in value]) if isinstance(value, list | tuple) else type(value)


@settings(max_examples=60, deadline=None)
@given(PLAIN)
def test_plain_data_comes_through_as_it_was(value: object):
    line = encode(value)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == value
    assert types_of(decode(line)) == types_of(value)


def test_what_comes_through_has_builtin_types_only():
    class Same(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class Text(str):
        def __eq__(self, other):
            return True

        def __str__(self):
            return self

        __hash__ = str.__hash__

    came = decode(encode([Same(3), Text("a"), {Text("k"): (Same(4),)}]))
    assert types_of(came) == (list, [int, str, (dict, [(str, (tuple, [int]))])])
    assert came == [3, "a", {"k": (4,)}]


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=60)
    | st.sampled_from([b'{"set": [[]]}', b'{"tuple": 3}', b'{"a": 1, "b": 2}', b"{}", b"[" * 5000])
)
def test_garbage_is_refused_in_one_way(line: bytes):
    with contextlib.suppress(NotPlain):  # no other error
        assert isinstance(
            decode(line), bool | int | float | str | list | dict | tuple | set | frozenset | bytes | complex | None
        )


@pytest.mark.parametrize("value", [object(), lambda: 1, range(3), [iter(())], {"a": type}])
def test_what_is_not_plain_is_refused(value: object):
    with pytest.raises(NotPlain, match="expected plain data, got"):
        encode(value)
