"""Package attributes that are imported on first access (PEP 562).

The ``__init__.py`` of a package runs before any of its modules. If it imported all public names, each worker process of the
verifier would import torch, and importing one engine would import all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazy_attributes(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Build ``__getattr__`` and ``__dir__`` of a package that publishes names of its modules.

    Type checkers and editors do not understand it, so import the same names under ``TYPE_CHECKING`` and list them in
    ``__all__`` (``tests/test_public_names.py`` checks that the three agree). A value is looked up at each access and not stored
    in the package, so that ``vars()`` of the package does not depend on earlier accesses.

    Args:
        package: the package's ``__name__``.
        names: by module, relative to the package (``base``, ``sources.files``), its published names, separated by spaces.
    """
    homes = {name: f"{package}.{module}" for module, published in names.items() for name in published.split()}

    def getattr_(name: str) -> Any:
        if (home := homes.get(name)) is not None:
            return getattr(import_module(home), name)
        # Given ``name``, Python does not append a second suggestion when it prints the uncaught error.
        raise AttributeError(f"module {package!r} has no attribute {name!r}{_suggestion(name, homes)}", name=name)

    def dir_() -> list[str]:
        """Return published names, modules that are loaded, and Python's special names; no helpers of ``__init__.py``."""
        here = vars(sys.modules[package])
        return sorted(
            {n for n, value in here.items() if n.startswith("__") or isinstance(value, ModuleType)} | homes.keys()
        )

    return getattr_, dir_


def _suggestion(name: str, known: Mapping[str, str]) -> str:
    """Return the nearest published name as the end of a sentence; "" for Python's special ``__names__``."""
    if name.startswith("_"):
        return ""
    import difflib  # not needed by the worker processes

    lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    return f"; did you mean {lower[near[0]]}?" if near else ""
