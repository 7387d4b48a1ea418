"""Accept a class for a setting whose type is a protocol if it has the protocol's methods and arguments, annotated or not."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any, cast

import jsonargparse._typehints

_typehints: Any = jsonargparse._typehints


def accept_by_methods() -> None:
    """Make the parser accept a class by its methods.

    jsonargparse (4.53) also compares annotations literally: it refuses a judge without annotations, and one whose ``-> None``
    is evaluated while the protocol's is a string (``from __future__ import annotations``). It asks some hundred times a command
    line about the same few classes, and reads their modules' sources each time: the answer is remembered.
    """
    strict = _typehints.implements_protocol
    if getattr(strict, "accepts_by_methods", False):
        return

    @functools.cache
    def fits(value: Any, protocol: Any) -> bool:
        if strict(value, protocol):
            return True
        if inspect.isfunction(value) and _typehints.is_protocol(protocol):
            return function_misfit(value, _typehints.get_protocol_origin(protocol)) is None
        # Not a metaclass: the parser also asks whether a class itself is an object that implements the protocol.
        is_candidate = inspect.isclass(value) and not issubclass(value, type) and value.__module__ != "builtins"
        is_candidate = is_candidate and _typehints.is_protocol(protocol)
        return is_candidate and misfit(cast(type, value), _typehints.get_protocol_origin(protocol)) is None

    def implements_protocol(value: Any, protocol: Any) -> bool:
        return (inspect.isclass(value) or inspect.isfunction(value)) and fits(
            value, protocol
        )  # others may have no hash

    implements_protocol.accepts_by_methods = True  # pyright: ignore[reportFunctionMemberAccess]
    _typehints.implements_protocol = implements_protocol


def misfit(given: type, protocol: type) -> str | None:
    """Describe the first method of a protocol that a class lacks or that takes other arguments; None if the class fits."""
    for name in _typehints.get_protocol_members(protocol):
        expected = [p.name for p in inspect.signature(getattr(protocol, name)).parameters.values()][1:]
        method = next((vars(base)[name] for base in given.__mro__[:-1] if name in vars(base)), None)
        if method is None:
            return f"it has no method {name}({', '.join(expected)})"
        bound = () if isinstance(method, staticmethod | classmethod) else (None,)
        by_position = (None,) * len(expected) if name == "__call__" else ()  # how objects are called
        by_name = {} if name == "__call__" else dict.fromkeys(expected)
        try:
            inspect.signature(getattr(given, name)).bind(*bound, *by_position, **by_name)
        except TypeError:
            return f"its method {name} must take ({', '.join(expected)})"
    return None


def function_misfit(given: Callable[..., Any], protocol: type) -> str | None:
    """Describe why a function cannot stand for an object of a protocol; None if it can."""
    methods = _typehints.get_protocol_members(protocol)
    if methods != ["__call__"]:
        return f"a function has no methods, and {', '.join(methods)} are needed: write a class"
    expected = [p.name for p in inspect.signature(protocol.__call__).parameters.values()][1:]
    try:
        inspect.signature(given).bind(*expected)
    except TypeError:
        return f"it must take ({', '.join(expected)})"
    return None


def misfit_of_paths(given: str, protocol: str) -> str | None:
    """Call ``misfit`` with import paths, or the bare name of a public protocol; None also if one cannot be imported."""
    try:
        value, expected = (
            import_from_path(given),
            import_from_path(protocol if "." in protocol else f"lit_tpgrpo.{protocol}"),
        )
        return function_misfit(value, expected) if inspect.isfunction(value) else misfit(value, expected)
    except (ImportError, AttributeError, ValueError, TypeError):
        return None


def import_error(path: str) -> str | None:
    """Return what importing the module of a class path raises, in one line; None if it can be imported or is not there.

    A module of that name that is not there is another matter: its name may be misspelt.
    """
    module = path.rpartition(".")[0]
    if not module:
        return None
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if module == error.name or module.startswith(f"{error.name}."):
            return None
        return f"{module} cannot be imported: {type(error).__name__}: {error}"
    except Exception as error:  # whatever the user's file raises
        return f"{module} cannot be imported: {type(error).__name__}: {error}"
    return None


def import_from_path(path: str) -> Any:
    """Return what a dotted path names.

    Raises:
        ImportError, AttributeError, ValueError: there is no such module, it has no such name, or the path has no dot.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
