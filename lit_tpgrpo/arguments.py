"""Check constructor arguments against their annotations: a wrong type is a one-line error when the object is built.

The command line checks its arguments itself. This is for use from Python, where ``group_size="8"``, or a class in place of
an object, would otherwise fail far from its cause, after the first round was sampled. Unambiguous values are converted: a
dict to a dataclass, a list to a tuple, a name to an enum member, 1 to a float.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from typing_extensions import get_protocol_members

from lit_tpgrpo.errors import ConfigError

C = TypeVar("C", bound=type)
Convert = Callable[..., Any]
_EXCERPT = 80


class _Refused(Exception):
    """A value does not match an annotation; the message is the remedy, if there is one."""


def checked_arguments(**converters: Convert) -> Callable[[C], C]:
    """Decorate a class so that its constructor checks its arguments.

    What the constructor passes to its base class as ``**kwargs`` is checked against the base class's constructor. Two
    class attributes name former arguments: ``MOVED_ARGUMENTS``, ``{argument: (part, class of the part)}``, those that are now
    arguments of a part, and ``RENAMED_ARGUMENTS``, ``{argument: present name}``, those with another name.

    Args:
        converters: by argument name, a function called as ``convert(value, where=name for messages)`` instead of the check
            against the annotation, for arguments with forms that the command line does not have.

    Raises:
        ConfigError: when the object is built, if an argument does not match its annotation.
    """

    def decorate(cls: C) -> C:
        init = cls.__init__
        signature = inspect.signature(init)
        kwargs_name = next(
            (n for n, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD), None
        )
        base = _next_init(cls) if kwargs_name is not None else None

        @functools.wraps(init)
        def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
            class_name = type(self).__name__
            names = _argument_names(type(self)) if kwargs_name is not None else [*signature.parameters]
            moved: Mapping[str, tuple[str, str]] = getattr(type(self), "MOVED_ARGUMENTS", {})
            renamed: Mapping[str, str] = getattr(type(self), "RENAMED_ARGUMENTS", {})
            try:
                bound = signature.bind(self, *args, **kwargs)
            except TypeError as error:
                raise ConfigError(_unknown_argument(class_name, kwargs, names, moved, renamed) or str(error)) from error

            def checked(given: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
                converted = {}
                for name, value in given.items():
                    convert = converters.get(name, functools.partial(accepted, annotation=hints.get(name, Any)))
                    converted[name] = convert(value, where=f"{class_name}: {name}")
                return converted

            base_arguments = bound.arguments.pop(kwargs_name, {}) if kwargs_name is not None else {}
            if base is not None and (fault := _unknown_argument(class_name, base_arguments, names, moved, renamed)):
                raise ConfigError(fault)
            init_arguments = {name: value for name, value in bound.arguments.items() if name != "self"}
            bound.arguments.update(checked(init_arguments, _hints(init)))
            init(*bound.args, **bound.kwargs, **checked(base_arguments, {} if base is None else _hints(base)))

        cls.__init__ = checked_init
        return cls

    return decorate


def _next_init(cls: type) -> Callable[..., None]:
    """Return the constructor that ``super().__init__`` calls."""
    return next(vars(base)["__init__"] for base in cls.__mro__[1:] if "__init__" in vars(base))


def _argument_names(cls: type) -> list[str]:
    """Return the names of a constructor's arguments and of those that it passes on to its base classes' as ``**kwargs``."""
    names: list[str] = []
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            names += parameters
            if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
                break
    return names


def _unknown_argument(
    class_name: str,
    given: Mapping[str, Any],
    parameters: Collection[str],
    moved: Mapping[str, tuple[str, str]],
    renamed: Mapping[str, str] | None = None,
) -> str:
    """Return an error message about the first unknown argument; "" if all names are known."""
    names = [name for name in dict.fromkeys(parameters) if name not in ("self", "kwargs")]
    unknown = next((name for name in given if name not in names), None)
    if unknown is None:
        return ""
    if unknown in moved:
        part, kind = moved[unknown]
        return f"{class_name} has no argument {unknown!r}; it is now one of its {part}: {part}={kind}({unknown}=...)"
    if renamed and unknown in renamed:
        return f"{class_name}: {unknown} is now {renamed[unknown]}"
    near = difflib.get_close_matches(unknown, names, n=1)
    return f"{class_name} has no argument {unknown!r}; " + (
        f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
    )


@functools.cache
def _hints(init: Callable[..., None]) -> dict[str, Any]:
    return typing.get_type_hints(init)


def accepted(value: Any, annotation: Any, where: str) -> Any:
    """Return a value converted to the type that an annotation asks for.

    Args:
        value: the argument's value.
        annotation: a type, union, Literal, generic alias or protocol.
        where: name of the argument in the error message.

    Raises:
        ConfigError: the value does not match the annotation.
    """
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    remedies: list[str] = []
    for option in options:
        try:
            return _as(value, option, where)
        except _Refused as refused:
            remedies += [str(refused)] if str(refused) else []
    kinds = [_described(option) for option in options]
    raise ConfigError(
        f"{where}: expected {' or '.join(kinds)}, got {shown(value)}{''.join(f'; {r}' for r in remedies)}"
    )


def check_positive(where: str = "", /, **values: int) -> None:
    """Check that numbers are at least 1.

    Args:
        where: what they belong to, before their names in the message.
        values: by name.

    Raises:
        ConfigError: one is not.
    """
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{where}{name} must be at least 1, got {value}")


def shown(value: Any) -> str:
    """Return a short text of a value and its type for an error message."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', repr(value))}"
    if not isinstance(value, str | numbers.Number | list | tuple | Mapping | os.PathLike):
        return f"an object of {type(value).__module__}.{type(value).__qualname__}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= _EXCERPT else text[:_EXCERPT] + '...'} ({type(value).__name__})"


def check_protocol(value: Any, protocol: type, where: str) -> Any:
    """Return an object after checking that it has all members of a protocol.

    Raises:
        ConfigError: it is a class instead of an object, or lacks a member; ``where`` names it in the message.
    """
    return accepted(value, protocol, where)


def _as(value: Any, kind: Any, where: str) -> Any:
    """Convert a value to one type, which is not a union."""
    if kind is Any or isinstance(kind, TypeVar):
        return value
    if kind is None or kind is types.NoneType:
        return _if(value is None, value)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return _if(any(value == choice and type(value) is type(choice) for choice in args), value)
    if origin is Callable:
        return _if(callable(value), value)
    if origin is not None and issubclass(origin, Mapping):
        _if(isinstance(value, Mapping), value)
        key, item = args or (Any, Any)
        return {accepted(k, key, where): accepted(v, item, f"{where}[{k!r}]") for k, v in value.items()}
    if origin is not None and issubclass(origin, Collection | typing.Iterable):
        return _items(value, origin, args, where)
    if not isinstance(kind, type):
        return value
    return _as_class(value, kind, where)


def _as_class(value: Any, kind: type, where: str) -> Any:
    if kind is bool:
        return _if(isinstance(value, bool), value)
    if kind is int:
        return int(_if(isinstance(value, numbers.Integral) and not isinstance(value, bool), value))
    if kind is float:
        return float(_if(isinstance(value, numbers.Real) and not isinstance(value, bool), value))
    if kind is Path:
        return Path(_if(isinstance(value, str | os.PathLike), value))
    if isinstance(value, type):
        raise _Refused(f"give an object: {value.__name__}(...)")
    if issubclass(kind, enum.Enum):
        return _member(value, kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _built(value, kind, where)
    if getattr(kind, "_is_protocol", False):
        # Look at the class first: looking up a property on the object would compute it.
        names = get_protocol_members(kind)
        missing = sorted(name for name in names if not (hasattr(type(value), name) or hasattr(value, name)))
        if missing:
            raise _Refused(f"it has no {', '.join(missing)}")
        return value
    return _if(isinstance(value, kind), value)


def _if(fits: bool, value: Any) -> Any:
    if not fits:
        raise _Refused
    return value


def _items(value: Any, origin: type, args: tuple[Any, ...], where: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _Refused
    kind = args[0] if args else Any
    items = [accepted(item, kind, f"{where}[{i}]") for i, item in enumerate(value)]
    return tuple(items) if origin is tuple else items


def _member(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    for member in kind:
        if value is member or value == member.value or value == member.name:
            return member
    raise _Refused


def _built(given: Mapping[str, Any], kind: type, where: str) -> Any:
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names)}"
            raise ConfigError(f"{where}: {kind.__name__} has no {key!r}{hint}")
    return kind(**given)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def _described(kind: Any) -> str:
    plain = {str: "a text", int: "an integer", float: "a number", bool: "True or False", Path: "a path", None: "None"}
    plain[types.NoneType] = "None"
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if (isinstance(kind, type) and kind in plain) or kind is None:
        return plain[kind]
    if origin is Literal:
        *first, last = map(str, args)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is Callable:
        return "a function"
    if origin is not None:
        items = f" of {_described(args[0])}" if args and not issubclass(origin, Mapping) else ""
        return f"a {'dict' if issubclass(origin, Mapping) else 'list'}{items}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    name = getattr(kind, "__name__", str(kind))
    return (
        f"an object with {', '.join(sorted(get_protocol_members(kind)))} ({name})"
        if getattr(kind, "_is_protocol", False)
        else f"{name}"
    )
