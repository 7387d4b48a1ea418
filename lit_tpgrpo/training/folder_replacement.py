"""Give a complete folder the name of another, of which nothing is lost if that fails."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lit_tpgrpo.errors import StorageError


class NotRestoredError(StorageError):
    """What was there could not be put back; the message says where it is."""


def replace_folder(new: Path, out: Path) -> None:
    """Give a folder the name ``out``; what was there, a folder or a file, is deleted afterwards.

    Args:
        new: beside ``out``.
        out: no link.

    Raises:
        OSError: it cannot be done, and ``out`` is as it was.
        NotRestoredError: it cannot be done, and what was there lies elsewhere.
    """
    if not out.exists():
        os.replace(new, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".old", dir=out.parent))
    try:
        os.rename(out, aside / out.name)
    except OSError:  # a mount point, for one, has its name to itself
        aside.rmdir()
        if not out.is_dir():
            raise
        _replace_contents(new, out)
        return
    try:
        os.replace(new, out)
    except OSError as error:
        try:
            os.rename(aside / out.name, out)
        except OSError:
            raise _not_restored(aside / out.name, new, out) from error
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _replace_contents(new: Path, out: Path) -> None:
    """Copy the contents of a folder into ``out``, as ``replace_folder`` replaces it."""
    aside = Path(tempfile.mkdtemp(prefix=".", suffix=".old", dir=out))
    held = [path for path in out.iterdir() if path != aside]
    copied: list[Path] = []
    try:
        for path in held:
            os.rename(path, aside / path.name)
        for path in new.iterdir():
            copied.append(out / path.name)
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, copied[-1])
    except OSError as error:
        try:
            _put_back(aside, copied)
        except OSError:
            raise _not_restored(aside, new, out) from error
        raise
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)


def _put_back(aside: Path, copied: Iterable[Path]) -> None:
    """Delete what was copied, and rename back what was moved aside."""
    for path in copied:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in list(aside.iterdir()):
        os.rename(path, aside.parent / path.name)
    aside.rmdir()


def _not_restored(old: Path, new: Path, out: Path) -> NotRestoredError:
    return NotRestoredError(
        f"the model could not be written to {out}, and what was there could not be put back: what was there before is in "
        f"{old}, the model in {new}; rename them"
    )
