"""Read untrusted YAML in bounded time and memory: configs come with checkpoints, papers and issues.

A few hundred bytes of YAML can expand to more values than fit into memory (aliases of aliases), or contain themselves. Such
files, and files with too deep nesting or extremely long numbers, are refused before any value is built.
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
"""Values of a file with its aliases expanded; the longest config of a run has about 500."""
MAX_NUMBER = 400
"""Maximum characters of a number."""


class UniqueKeys(yaml.SafeLoader):
    """YAML loader that refuses a duplicate key, where YAML would silently drop the first."""

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


# Dates stay text, as in the configs that jsonargparse reads. The loader has a table of its own from here on, since libraries
# (lm-format-enforcer, which comes with vLLM) change SafeLoader's for the whole process.
UniqueKeys.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values.

    Raises:
        yaml.YAMLError: the content is not valid YAML, or is refused; ``yaml_fault`` formats the error as one line.
        UnicodeDecodeError: the file is not UTF-8.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise yaml.YAMLError(f"expected a file of at most {MAX_BYTES:,} bytes, got a longer one")
    text = data.decode("utf-8-sig")
    check_yaml(text)
    try:
        return yaml.load(text, UniqueKeys)  # a SafeLoader
    except ValueError as error:  # a number without digits, such as 0b_
        raise yaml.YAMLError(f"expected values that can be read, got one that cannot: {error}") from error


def check_yaml(text: str) -> None:
    """Check the size, nesting and aliases of YAML before its values are built.

    Raises:
        yaml.YAMLError: it is not valid YAML, is nested too deeply, or expands to more values than a config can need.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"expected a text of at most {MAX_BYTES:,} characters, got a longer one")
    _check_events(text)
    if (node := yaml.compose(text, yaml.SafeLoader)) is not None:
        _check_size(node)


def bound_parsers() -> None:
    """Make jsonargparse check all YAML that it reads: configs, files that settings name, values of options."""
    load: Callable[[str], Any] = jsonargparse.get_loader("yaml")
    if getattr(load, "is_bounded", False):
        return

    def bounded(text: str) -> Any:
        check_yaml(text)
        return load(text)

    bounded.is_bounded = True  # pyright: ignore[reportFunctionMemberAccess]
    jsonargparse.set_loader("yaml", bounded, (yaml.YAMLError,))


def yaml_fault(path: Path, error: yaml.YAMLError) -> str:
    """Format a YAML error as one line with the file and, if known, the line number."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    return f"{path}{f':{mark.line + 1}' if mark is not None else ''}: {' '.join(str(problem).split())}"


def _check_events(text: str) -> None:
    """Refuse too deep nesting before it is followed recursively, and too long numbers before their digits are converted."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        if count > 2 * MAX_VALUES:  # one event per value, and one for the end of each mapping and sequence
            raise _refused(f"expected at most {MAX_VALUES:,} values, got more", event)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _refused(f"expected values that nest at most {MAX_DEPTH} deep", event)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_NUMBER and event.implicit[0]:
            kind = yaml.SafeLoader("").resolve(yaml.ScalarNode, event.value, (True, False))
            if kind != "tag:yaml.org,2002:str":
                raise _refused(f"expected numbers of at most {MAX_NUMBER} characters", event)


def _check_size(root: yaml.Node) -> None:
    """Refuse a document whose aliases expand to too many values, or contain themselves."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    stack = [root]
    while stack:  # depth-first: each node's size is computed once, after its children's
        node = stack[-1]
        children = _children(node)
        if id(node) in entered or not children:
            stack.pop()
            if id(node) not in sizes:
                if any(id(child) not in sizes for child in children):
                    raise _refused("expected plain values, got an alias inside its own value", node)
                sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            if sizes[id(node)] > MAX_VALUES:
                raise _refused(f"expected at most {MAX_VALUES:,} values, got aliases that expand to more", node)
            continue
        entered.add(id(node))
        stack += [child for child in children if id(child) not in sizes and id(child) not in entered]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refused(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
