"""Append-only files of JSON lines that outlive a crash: a line cut short is dropped when read, and ended when written on."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.redaction import redacted_value

log = logging.getLogger(__name__)


def make_writable(folder: Path, what: str, setting: str) -> None:
    """Create a folder and write into it, to find out before there is something to lose.

    Args:
        folder: the folder.
        what: is to be written there, in the plural, for the message.
        setting: names another folder.

    Raises:
        StorageError: it cannot be created or written.
    """
    probe = folder / f".writable.{socket.gethostname()}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{what} cannot be written to {folder} ({error.strerror or error}); make it writable, or set {setting} to another "
            "folder"
        ) from error


def append_line(path: Path, row: dict[str, Any]) -> None:
    """One line in one write, with the operating system before we go on: it outlives this process however that ends. A
    torn line of an earlier crash is ended first. Keys of endpoints are not written.

    Raises:
        StorageError: it cannot be written.
    """
    data = (json.dumps(redacted_value(row)) + "\n").encode()  # the texts alone: a key may be a part of a number
    try:
        with path.open("a+b") as file:
            if file.tell() and not _ends_line(file):
                data = b"\n" + data
            file.write(data)
    except OSError as error:
        raise StorageError(
            f"nothing more can be written to {path} ({error.strerror or error}); what it holds is kept. Free space or make it "
            "writable, then resume with --ckpt_path and the run's folder"
        ) from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of the complete lines; nothing where there is no file. Other lines are passed over with a warning."""
    for _, row in numbered_lines(path):
        yield row


def numbered_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers, from 1, beside what ``read_lines`` yields."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # cut short by a crash: what it held is simply made again
                log.warning("%s:%d is incomplete and is made again", path, number)
                continue
            if not isinstance(row, dict):
                log.warning("%s:%d has a line that cannot be read (no JSON object) and is made again", path, number)
                continue
            yield number, row


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
