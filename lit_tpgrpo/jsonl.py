"""Crash-safe, append-only files of JSON lines.

A line cut short by a crash is skipped when the file is read, and terminated before the next line is appended.
"""

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
    """Create a folder and test that it can be written, before there are results to lose.

    Args:
        folder: the folder.
        what: what is going to be written there, a plural noun for the error message.
        setting: the setting that selects another folder, for the error message.

    Raises:
        StorageError: the folder cannot be created or written.
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
    """Append one row as one line, in one write.

    The operating system has the data before this returns, so it survives the process however that ends. A torn line of an
    earlier crash is terminated first. API keys are redacted.

    Raises:
        StorageError: the line cannot be written.
    """
    data = (json.dumps(redacted_value(row)) + "\n").encode()  # redact strings only: a key may occur within a number
    try:
        with path.open("a+b") as file:
            if file.tell() and not _ends_line(file):
                data = b"\n" + data
            file.write(data)
    except OSError as error:
        raise StorageError(
            f"cannot write to {path} ({error.strerror or error}); its present content is kept. Free space or make it "
            "writable, then resume with --ckpt_path and the run's folder"
        ) from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of the complete lines, nothing if there is no file; other lines are skipped with a warning."""
    for _, row in numbered_lines(path):
        yield row


def numbered_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number from 1, row)`` for the lines that ``read_lines`` yields."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # cut short by a crash; its content is computed again
                log.warning("%s:%d is incomplete; it is skipped and computed again", path, number)
                continue
            if not isinstance(row, dict):
                log.warning("%s:%d is not a JSON object; it is skipped and computed again", path, number)
                continue
            yield number, row


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
