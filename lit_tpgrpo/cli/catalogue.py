"""Find classes that settings may name, by similar names: this package's, Lightning's and torch's."""

from __future__ import annotations

import difflib
import enum
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import lit_tpgrpo

_OTHERS = (
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "bitsandbytes.optim",
)
_OURS = tuple(
    f"lit_tpgrpo.{name}"
    for name in (
        "callbacks",
        "chat",
        "credit",
        "datamodules",
        "engines",
        "judges",
        "losses",
        "module",
        "search",
        "text.formats",
        "training",
        "verify",
    )
)
_MIN_SIMILARITY = 0.75
"""Cutoff of ``difflib`` for a suggestion, from 0 to 1."""


def nearest_path(given: str) -> str | None:
    """Return the path of the class whose name is most similar to that of a given path; None if none is similar."""
    paths = _paths()
    name = given.rpartition(".")[2].lower()
    near = difflib.get_close_matches(name, list(paths), n=1, cutoff=_MIN_SIMILARITY)
    return paths[near[0]] if near else None


@functools.cache
def _paths() -> dict[str, str]:
    """Return class paths by lower-case class name: the public name, or else the shortest path of several modules."""
    paths: dict[str, str] = {}
    for module in _modules():
        for name, value in vars(module).items():
            if not _is_concrete_class(value) or name.startswith("_") or not _is_published_by(value, module.__name__):
                continue
            path = f"{module.__name__}.{name}"
            known = paths.get(name.lower())
            if known is None or path.count(".") < known.count("."):
                paths[name.lower()] = path
    public = (name for name in lit_tpgrpo.__all__ if _is_concrete_class(getattr(lit_tpgrpo, name)))
    return paths | {name.lower(): f"lit_tpgrpo.{name}" for name in public}


def _is_concrete_class(value: object) -> bool:
    """Return whether a value is a class that a setting may name: not an error, an enum or a protocol."""
    if not inspect.isclass(value) or issubclass(value, (BaseException, enum.Enum)):
        return False
    return not getattr(value, "_is_protocol", False)


def _is_published_by(value: type, module: str) -> bool:
    """Return whether a module defines or re-exports a class of its package, and does not only use it."""
    return f"{value.__module__}.".startswith(f"{module}.")


def _modules() -> Iterator[ModuleType]:
    for name in (*_OURS, *_OTHERS):
        if (module := _imported(name)) is None:
            continue
        yield module
        if name in _OURS and hasattr(module, "__path__"):
            for inner in pkgutil.walk_packages(module.__path__, f"{name}.", onerror=lambda _: None):
                if not inner.name.endswith("__main__") and (submodule := _imported(inner.name)) is not None:
                    yield submodule


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:  # a package that is not installed
        return None
