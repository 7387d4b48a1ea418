"""YAML files of others, read in bounded time: configs come with checkpoints, papers and issues.

A few hundred bytes of YAML can stand for more values than fit into memory (aliases of aliases), or hold themselves. Such files,
and those that nest too deeply or hold a number without end, are refused before a value is built.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

MAX_BYTES = 300_000
MAX_DEPTH = 50
MAX_VALUES = 20_000
"""Values of a file once its aliases are written out; the longest config of a run has about 500."""
MAX_NUMBER = 400
"""Characters of a number."""


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} is given twice, first in line {seen[key.value]}",
                        problem_mark=key.start_mark,
                    )
                seen[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of plain values.

    Raises:
        yaml.YAMLError: it is no YAML, or one that is refused; ``yaml_fault`` puts it into words.
        UnicodeDecodeError: it is no UTF-8.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise yaml.YAMLError(f"expected a file of at most {MAX_BYTES:,} bytes, got a longer one")
    text = data.decode("utf-8-sig")
    check_yaml(text)
    try:
        return yaml.load(text, UniqueKeys)  # a SafeLoader
    except ValueError as error:  # a date that does not exist
        raise yaml.YAMLError(f"expected values that can be read, got one that cannot: {error}") from error


def check_yaml(text: str) -> None:
    """Refuse a text before its values are built.

    Raises:
        yaml.YAMLError: it is no YAML, nests too deeply, or stands for more values than a config can need.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"expected a text of at most {MAX_BYTES:,} characters, got a longer one")
    _check_events(text)
    if (node := yaml.compose(text, yaml.SafeLoader)) is not None:
        _check_size(node)


def bound_parsers() -> None:
    """Have jsonargparse check all YAML that it reads: configs, files that settings name, values of options."""
    load: Callable[[str], Any] = jsonargparse.get_loader("yaml")
    if getattr(load, "is_bounded", False):
        return

    def bounded(text: str) -> Any:
        check_yaml(text)
        return load(text)

    bounded.is_bounded = True  # pyright: ignore[reportFunctionMemberAccess]
    jsonargparse.set_loader("yaml", bounded, (yaml.YAMLError,))


def yaml_fault(path: Path, error: yaml.YAMLError) -> str:
    """What is wrong with a file, in one line with the file and, where it is known, the line."""
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    return f"{path}{f':{mark.line + 1}' if mark is not None else ''}: {' '.join(str(said).split())}"


def _check_events(text: str) -> None:
    """Refuse what nests too deeply or holds a number too long: before recursion, and before the digits are multiplied."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        if count > 2 * MAX_VALUES:  # an event for each value, and one for the end of each that holds others
            raise _refused(f"expected at most {MAX_VALUES:,} values, got more", event)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _refused(f"expected values that nest at most {MAX_DEPTH} deep", event)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_NUMBER and event.implicit[0]:
            kind = yaml.SafeLoader("").resolve(yaml.ScalarNode, event.value, (True, False))
            if kind != "tag:yaml.org,2002:str":
                raise _refused(f"expected numbers of at most {MAX_NUMBER} characters", event)


def _check_size(root: yaml.Node) -> None:
    """Refuse a document whose aliases, written out, are too many values or hold themselves."""
    sizes: dict[int, int] = {}
    begun: set[int] = set()
    stack = [root]
    while stack:  # a node is measured once, after its parts
        node = stack[-1]
        parts = _parts(node)
        if id(node) in begun or not parts:
            stack.pop()
            if id(node) not in sizes:
                if any(id(part) not in sizes for part in parts):
                    raise _refused("expected plain values, got an alias inside of what it stands for", node)
                sizes[id(node)] = 1 + sum(sizes[id(part)] for part in parts)
            if sizes[id(node)] > MAX_VALUES:
                raise _refused(f"expected at most {MAX_VALUES:,} values, got aliases that stand for more", node)
            continue
        begun.add(id(node))
        stack += [part for part in parts if id(part) not in sizes and id(part) not in begun]


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refused(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
