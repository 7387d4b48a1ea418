"""The classes that settings may name, by their paths: ours, and Lightning's and torch's that go with them."""

from __future__ import annotations

import difflib
import enum
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

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
        "module",
        "training",
        "verify",
    )
)
_ALIKE = 0.75


def nearest_path(given: str) -> str | None:
    """The path of the class whose name is most like that of a given path, None where none is alike."""
    paths = _paths()
    name = given.rpartition(".")[2].lower()
    near = difflib.get_close_matches(name, list(paths), n=1, cutoff=_ALIKE)
    return paths[near[0]] if near else None


@functools.cache
def _paths() -> dict[str, str]:
    """By lower-case name; of several places that a class can be taken from the highest."""
    found: dict[str, str] = {}
    for module in _modules():
        for name, value in vars(module).items():
            if not _is_part(value) or name.startswith("_") or not _is_at_home(value, module.__name__):
                continue
            path = f"{module.__name__}.{name}"
            known = found.get(name.lower())
            if known is None or path.count(".") < known.count("."):
                found[name.lower()] = path
    return found


def _is_part(value: object) -> bool:
    if not inspect.isclass(value) or issubclass(value, (BaseException, enum.Enum)):
        return False
    return not getattr(value, "_is_protocol", False)


def _is_at_home(value: type, module: str) -> bool:
    """Whether the module defines or publishes the class, and does not just use it."""
    return f"{value.__module__}.".startswith(f"{module}.")


def _modules() -> Iterator[ModuleType]:
    for name in (*_OURS, *_OTHERS):
        if (module := _imported(name)) is None:
            continue
        yield module
        if name in _OURS and hasattr(module, "__path__"):
            for inner in pkgutil.walk_packages(module.__path__, f"{name}.", onerror=lambda _: None):
                if not inner.name.endswith("__main__") and (part := _imported(inner.name)) is not None:
                    yield part


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:  # a package that is not installed
        return None
