"""Check the checksums of the zip archives that ``torch.save`` writes; ``torch.load`` does not."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import IO

from lit_tpgrpo.checksums import CHUNK

_BARE = "it is a bare pickle, no archive as torch.save writes them"


def archive_fault(source: Path | IO[bytes], size: int | None = None) -> str | None:
    """Return the damage to an archive, or None if it is intact.

    Each record has a CRC-32 in the table at the end. Checksums do not cover padding, dates and attributes, which nothing
    reads; names, offsets and lengths of records are written twice, and must agree.

    Args:
        source: the archive.
        size: its bytes, where ``source`` is not a file on disk.
    """
    record = ""
    try:
        if not zipfile.is_zipfile(source):
            return _no_archive(source)
        total = os.path.getsize(source) if isinstance(source, Path) else size
        with zipfile.ZipFile(source) as archive:
            records = archive.infolist()
            if not records:
                return "it is empty"
            # torch stores records as they are: anything else is of another program, and may unpack to any size.
            if any(r.compress_type != zipfile.ZIP_STORED for r in records) or (
                total is not None and sum(r.file_size for r in records) > total
            ):
                return "it is compressed, which torch.save never does"
            for info in records:
                record = f"{info.filename}: "
                with archive.open(info) as content:  # raises where the checksum differs at the end
                    while content.read(CHUNK):
                        pass
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        return reason if record.removesuffix(": ") in reason else record + reason
    return None


def _no_archive(source: Path | IO[bytes]) -> str:
    if not isinstance(source, Path):
        return "it is no archive"
    with source.open("rb") as file:
        begins = file.read(2)
    kinds = {b"": "it is empty", b"PK": "it is cut short", b"\x80\x02": _BARE, b"\x80\x04": _BARE, b"\x80\x05": _BARE}
    return kinds.get(begins, "it is no archive, as torch.save writes them")
