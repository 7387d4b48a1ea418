"""Which classes a setting takes whose type is a protocol: those with its methods and their arguments, annotated or not."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import jsonargparse._typehints

_typehints: Any = jsonargparse._typehints


def accept_by_methods() -> None:
    """Have the parser accept a class by the methods that it has.

    jsonargparse (4.53) also compares the annotations, to the letter: it refuses a judge without any, and one whose ``-> None``
    is evaluated where the protocol's is text (``from __future__ import annotations``).
    """
    strict = _typehints.implements_protocol
    if getattr(strict, "accepts_by_methods", False):
        return

    def implements_protocol(value: Any, protocol: Any) -> bool:
        if strict(value, protocol):
            return True
        # Not a class of classes: the parser also asks of a class itself whether it is an object that fits.
        is_candidate = inspect.isclass(value) and not issubclass(value, type) and value.__module__ != "builtins"
        is_candidate = is_candidate and _typehints.is_protocol(protocol)
        return is_candidate and misfit(value, _typehints.get_protocol_origin(protocol)) is None

    implements_protocol.accepts_by_methods = True  # pyright: ignore[reportFunctionMemberAccess]
    _typehints.implements_protocol = implements_protocol


def misfit(given: type, protocol: type) -> str | None:
    """The first method of a protocol that a class has not, or that takes other arguments; None where it fits."""
    for name in _typehints.get_protocol_members(protocol):
        wanted = [p.name for p in inspect.signature(getattr(protocol, name)).parameters.values()][1:]
        method = next((vars(base)[name] for base in given.__mro__[:-1] if name in vars(base)), None)
        if method is None:
            return f"it has no method {name}({', '.join(wanted)})"
        bound = () if isinstance(method, staticmethod | classmethod) else (None,)
        try:
            inspect.signature(getattr(given, name)).bind(*bound, **dict.fromkeys(wanted))
        except TypeError:
            return f"its method {name} must take ({', '.join(wanted)})"
    return None


def misfit_of_paths(given: str, protocol: str) -> str | None:
    """``misfit`` by import paths; None too where one of them cannot be imported."""
    try:
        return misfit(_imported(given), _imported(protocol))
    except (ImportError, AttributeError, ValueError, TypeError):
        return None


def _imported(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
