"""Attributes of a package that are imported when they are first asked for (PEP 562).

The ``__init__.py`` of a package runs before any module in it. If it imported what it publishes, each worker process of the
verifier would import torch, and importing one engine would import all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package that publishes names of its modules.

    Type checkers and editors cannot follow it: import the same names under ``TYPE_CHECKING`` and list them in ``__all__``
    (``tests/test_public_names.py`` holds the three equal). A value is looked up at each access and not stored in the package,
    so that what ``vars()`` shows of it does not depend on what was used before.

    Args:
        package: the package's ``__name__``.
        names: by module, relative to the package (``base``, ``sources.files``), its published names, separated by spaces.
    """
    homes = {name: f"{package}.{module}" for module, published in names.items() for name in published.split()}

    def getattr_(name: str) -> Any:
        if (home := homes.get(name)) is not None:
            return getattr(import_module(home), name)
        # With a name of its own the error is not given a second suggestion by Python, which knows one only when it ends.
        raise AttributeError(f"module {package!r} has no attribute {name!r}{_suggestion(name, homes)}", name=name)

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return getattr_, dir_


def _suggestion(name: str, known: Mapping[str, str]) -> str:
    """The nearest published name, as the end of a sentence; nothing for Python's own ``__names__``."""
    if name.startswith("_"):
        return ""
    import difflib  # not needed by the worker processes

    lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    return f"; did you mean {lower[near[0]]}?" if near else ""
