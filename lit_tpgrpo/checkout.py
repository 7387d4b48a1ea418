"""One import name for the two packages that a checkout holds beside ``lit_tpgrpo``: ``callbacks/`` and ``datamodules/``.

Installed they lie in ``lit_tpgrpo``, and in a checkout symbolic links say so. Git writes no links where the system or
``core.symlinks=false`` forbids them (Windows, some shared disks), and some zip programs drop them: then the folders beside the
package are used. A plain ``import datamodules`` gives the modules of ``lit_tpgrpo.datamodules``, never copies of their classes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


def add_folders_beside(package: str, *names: str) -> None:
    """Extend the package's search path by the folder above it where it lacks one of its packages, which lies there."""
    path = sys.modules[package].__path__
    folder = os.path.abspath(path[0])
    above = os.path.dirname(folder)
    missing = [name for name in names if not os.path.isdir(os.path.join(folder, name))]
    if any(os.path.isfile(os.path.join(above, name, "__init__.py")) for name in missing):
        path.append(above)


def subpackage_folder(name: str) -> Path:
    """Return the folder of ``lit_tpgrpo.NAME``, without importing it."""
    for folder in map(Path, sys.modules["lit_tpgrpo"].__path__):
        if (folder / name).is_dir():
            return folder / name
    raise ModuleNotFoundError(f"lit_tpgrpo.{name} is neither in the package nor in the folder beside it", name=name)


def import_as_part_of_package(name: str) -> None:
    """Let ``import NAME`` of a checkout, and of what is in it, give ``lit_tpgrpo.NAME``: called by the package NAME itself."""
    sys.meta_path.insert(0, _Alias(name))
    sys.modules[name] = import_module(f"lit_tpgrpo.{name}")


class _Alias(MetaPathFinder, Loader):
    """Import ``lit_tpgrpo.NAME.module`` in place of ``NAME.module``."""

    def __init__(self, name: str) -> None:
        self.prefix = f"{name}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.startswith(self.prefix) else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(f"lit_tpgrpo.{module.__name__}")
