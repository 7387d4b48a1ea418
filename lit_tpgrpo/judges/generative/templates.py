"""Safe prompt templates: files from any author can neither run code nor exhaust time or memory.

Jinja's sandbox keeps templates from Python's internals but does not bound their work (``{{ "a" * 10**9 }}``). So only a
subset of the language is allowed, whose work and output are bounded by the data shown: variables, ``if``, ``for``,
comparisons, sums of numbers, and the filters below. Loops and filters share one budget of steps per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, meta, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lit_tpgrpo.errors import ConfigError

MAX_FILE_CHARS = 1_000_000
MAX_PROMPT_CHARS = 10_000_000
MAX_STEPS = 2_000_000
"""Steps per prompt: nodes of a loop's body, for each iteration, and items or characters that filters process."""
MAX_NODES = 20_000
"""Syntax nodes per file: Python's compiler needs 15 kB for one variable. The prompts of the package have 50 at most."""
MAX_DEPTH = 50
"""Nesting of expressions and blocks: far below the limit of Python's compiler."""

_BUDGET = "_budget"
_COUNTED = "_counted"
_NODES: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Tuple, nodes.List),
    *(nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
    *(nodes.Add, nodes.Sub, nodes.Neg, nodes.Pos, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test),
)
_COMPARISONS = ("eq", "ne", "lt", "lteq", "gt", "gteq")
_TESTS = ("defined", "undefined", "none", "odd", "even")
_LOOP = ("index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem")
_TOO_MUCH = "it uses more than {limit:,} steps"


class _Budget:
    """The steps that a prompt may still use."""

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TemplateError(_TOO_MUCH.format(limit=MAX_STEPS))

    def spend_on(self, value: Any) -> None:
        """Spend one step per character or item, nested items included: ``map("upper")`` reads them all.

        The recursion ends with the budget at the latest: a list in a file can refer to a long one many times.
        """
        self.spend(1 + len(value) if isinstance(value, (str, list, tuple)) else 1)
        for item in value if isinstance(value, (list, tuple)) else ():
            self.spend_on(item)


def _join(value: Iterable[Any], separator: str = "") -> str:
    texts = [str(item) for item in value]
    if sum(map(len, texts)) + len(texts) * len(str(separator)) > MAX_PROMPT_CHARS:
        raise TemplateError(f"join makes more than {MAX_PROMPT_CHARS:,} characters")
    return str(separator).join(texts)


def _first(value: Any) -> Any:
    return next(iter(value), "")


def _last(value: Any) -> Any:
    return next(reversed(list(value)), "")


_ITEM_FILTERS: dict[str, Callable[..., Any]] = {"first": _first, "last": _last, "upper": str.upper, "lower": str.lower}


def _map(value: Iterable[Any], name: str) -> list[Any]:
    if name not in _ITEM_FILTERS:
        raise TemplateError(f"map takes one of {', '.join(map(repr, _ITEM_FILTERS))}, got {name!r}")
    return [_ITEM_FILTERS[name](item) for item in value]


FILTERS: dict[str, Callable[..., Any]] = _ITEM_FILTERS | {
    "count": len,
    "join": _join,
    "length": len,
    "list": list,
    "map": _map,
    "sort": sorted,
    "trim": str.strip,
}


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def filtered(context: Context, value: Any, *args: Any) -> Any:
        context[_BUDGET].spend_on(value)
        return function(value, *args)

    return filtered


@pass_context
def _shown(context: Context, value: Any) -> Any:
    """Check a value written by ``{{ }}``: lists spend steps before they are formatted, other objects are refused."""
    if isinstance(value, (list, tuple)):
        context[_BUDGET].spend_on(value)
    elif not isinstance(value, (str, int, float, Undefined, type(None))):
        raise TemplateError(f"a {type(value).__name__} cannot be shown")
    return value


@pass_context
def _counted(context: Context, value: Iterable[Any], steps: int) -> Iterator[Any]:
    """Yield the items of a ``for`` loop and spend the ``steps`` of its body for each."""
    for item in value:
        context[_BUDGET].spend(steps)
        yield item


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
        self.filters = {name: _metered(function) for name, function in FILTERS.items()} | {_COUNTED: _counted}
        self.globals = {}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Add and subtract numbers only: texts and lists could grow without bound."""
        if not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
            raise TemplateError(f"{operator} takes numbers, got {type(left).__name__} and {type(right).__name__}")
        return super().call_binop(context, operator, left, right)


_ENVIRONMENT = _Environment()


class PromptTemplate:
    """The template of one prompt file.

    Attributes:
        variables: the names of the variables it uses.

    Args:
        source: the text of the template.
        path: the file, for error messages.
        first_line: the line of the file at which the text begins.

    Raises:
        ConfigError: the template is invalid or uses a feature that is not allowed in prompts.
    """

    def __init__(self, source: str, path: Path, first_line: int = 1) -> None:
        self._path, self._first_line = path, first_line
        if len(source) > MAX_FILE_CHARS:
            raise ConfigError(f"{path}: has {len(source):,} characters, expected {MAX_FILE_CHARS:,} at most")
        try:
            tree = _ENVIRONMENT.parse(source)
            self._check(tree, 0)
            if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_NODES:
                raise ConfigError(f"{path}: has more than {MAX_NODES:,} variables, texts and other parts")
            self.variables = frozenset(meta.find_undeclared_variables(tree))
            for loop in tree.find_all(nodes.For):
                steps = 1 + sum(1 for statement in loop.body for _ in statement.find_all(nodes.Node))
                args: list[nodes.Expr] = [nodes.Const(steps)]
                loop.iter = nodes.Filter(loop.iter, _COUNTED, args, [], None, None, lineno=loop.lineno)
            self._template: Template = _ENVIRONMENT.from_string(tree)
        except ConfigError:
            raise
        except TemplateSyntaxError as error:
            raise ConfigError(f"{self._at(error.lineno)}: {error.message}") from error
        except (RecursionError, MemoryError, SyntaxError) as error:  # of Jinja's parser, and of Python's compiler
            raise ConfigError(f"{path}: its expressions are nested too deeply") from error
        except ValueError as error:  # a number of more digits than Python reads
            raise ConfigError(f"{path}: {error}") from error

    def render(self, **variables: Any) -> str:
        """Render the template with these variables.

        Raises:
            ConfigError: a variable has the wrong type for its use, or the prompt exceeds a limit.
        """
        pieces, length = [], 0
        try:
            for piece in self._template.generate(variables | {_BUDGET: _Budget()}):
                length += len(piece)
                if length > MAX_PROMPT_CHARS:
                    raise TemplateError(f"its output exceeds {MAX_PROMPT_CHARS:,} characters")
                pieces.append(piece)
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise ConfigError(f"{self._path}: cannot be filled in: {error}") from error
        return "".join(pieces)

    def _at(self, line: int | None) -> str:
        return f"{self._path}:{(line or 1) + self._first_line - 1}"

    def _check(self, node: nodes.Node, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ConfigError(f"{self._at(node.lineno)}: is nested more than {MAX_DEPTH} deep")
        if (what := _forbidden(node)) is not None:
            raise ConfigError(
                f"{self._at(node.lineno)}: {what} is not allowed in a prompt; allowed are variables, if, for, comparisons, + "
                f"and - of numbers, loop.index and similar, and the filters {', '.join(sorted(FILTERS))}"
            )
        for child in node.iter_child_nodes():
            self._check(child, depth + 1)


def _forbidden(node: nodes.Node) -> str | None:
    """Return the feature of a node that is not allowed in prompts; None if it is allowed."""
    if not isinstance(node, _NODES) or (isinstance(node, nodes.For) and node.recursive):
        return type(node).__name__
    if isinstance(node, nodes.Filter) and (node.name not in FILTERS or node.kwargs or node.dyn_args or node.dyn_kwargs):
        return f"the filter {node.name}" + ("" if node.name not in FILTERS else " with such arguments")
    if isinstance(node, nodes.Test) and node.name not in _TESTS:
        return f"the test {node.name}"
    if isinstance(node, nodes.Operand) and node.op not in _COMPARISONS:
        return f"the comparison {node.op}"
    if isinstance(node, nodes.Getattr) and not (
        isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in _LOOP
    ):
        return f"the attribute {node.attr}"
    return None
