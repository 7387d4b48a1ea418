"""Write and check a file of checksums for the files of a folder: shards of a checkpoint, weights of an export.

A checkpoint in one file needs none: torch's archive format has checksums of its contents.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

CHECKSUMS = "checksums.json"
CHUNK = 1 << 20
"""Bytes per read."""
Sum = tuple[int, int]
"""Size in bytes and CRC-32 of a file."""
_WRITER = re.compile(r"__(\d+)_")


def shard_checksums(folder: Path, rank: int) -> dict[str, Sum]:
    """Return the checksums, by file name, of the shards that a rank has written into a folder."""
    shards = (path for path in folder.iterdir() if (match := _WRITER.match(path.name)) and int(match[1]) == rank)
    return {path.name: _sum(path) for path in shards}


def write_checksums(folder: Path, known: Iterable[Mapping[str, Sum]] = (), pattern: str = "*") -> None:
    """Write the checksums of all files of a folder that match a pattern; files in ``known`` are not read again."""
    sums = {name: tuple(value) for part in known for name, value in part.items()}
    for path in folder.glob(pattern):
        if path.is_file() and path.name not in sums:
            sums[path.name] = _sum(path)
    (folder / CHECKSUMS).write_text(json.dumps(dict(sorted(sums.items())), indent=0))


def checksum_fault(folder: Path, files: Iterable[str] = ()) -> str | None:
    """Describe the first damaged file, or the first of ``files`` that is not listed; None if all match."""
    try:
        read = json.loads((folder / CHECKSUMS).read_text())
        sums = {str(name): (int(size), int(crc)) for name, (size, crc) in read.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"{CHECKSUMS} cannot be read ({type(error).__name__})"
    if missing := sorted(set(files) - sums.keys()):
        return f"{missing[0]} is not in {CHECKSUMS}"
    for name, expected in sums.items():
        path = folder / name
        if path.parent != folder or not path.is_file() or path.stat().st_size != expected[0]:
            return f"{name} is missing or of another size"
        if crc32_of(path) != expected[1]:
            return f"{name}: its checksum differs"
    return None


def crc32_of(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _sum(path: Path) -> Sum:
    return path.stat().st_size, crc32_of(path)
