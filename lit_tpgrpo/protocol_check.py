"""Accept a class for a setting whose type is a protocol if it has the protocol's methods and arguments, annotated or not."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import jsonargparse._typehints

_typehints: Any = jsonargparse._typehints


def accept_by_methods() -> None:
    """Make the parser accept a class by its methods.

    jsonargparse (4.53) also compares annotations literally: it refuses a judge without annotations, and one whose ``-> None``
    is evaluated while the protocol's is a string (``from __future__ import annotations``).
    """
    strict = _typehints.implements_protocol
    if getattr(strict, "accepts_by_methods", False):
        return

    def implements_protocol(value: Any, protocol: Any) -> bool:
        if strict(value, protocol):
            return True
        # Not a metaclass: the parser also asks whether a class itself is an object that implements the protocol.
        is_candidate = inspect.isclass(value) and not issubclass(value, type) and value.__module__ != "builtins"
        is_candidate = is_candidate and _typehints.is_protocol(protocol)
        return is_candidate and misfit(value, _typehints.get_protocol_origin(protocol)) is None

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
        try:
            inspect.signature(getattr(given, name)).bind(*bound, **dict.fromkeys(expected))
        except TypeError:
            return f"its method {name} must take ({', '.join(expected)})"
    return None


def misfit_of_paths(given: str, protocol: str) -> str | None:
    """Call ``misfit`` with import paths; return None also if one of them cannot be imported."""
    try:
        return misfit(_imported(given), _imported(protocol))
    except (ImportError, AttributeError, ValueError, TypeError):
        return None


def _imported(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
