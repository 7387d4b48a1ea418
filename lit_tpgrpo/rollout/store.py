"""Rounds on disk: every solution and verdict is written when it completes, so a crash loses at most one record.

One folder per round, shared by all ranks: ``meta.json`` (settings that its solutions depend on), ``judging.json`` (settings
that its verdicts depend on), and from each rank R files that ``round_file.py`` names; where a round is sampled while
the trainer works also ``weights.safetensors`` (the weights that sample it), with adapters ``adapter.safetensors`` (what the
trainer has of these), and ``scoring.json`` (the weights that its scores are of). Groups are identified by their index in the
round over all ranks, and every rank reads all files: a run can be resumed on another number of ranks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.rollout.round_file import RoundFile

log = logging.getLogger(__name__)

_ROUND = re.compile(r"round_\d{6}")
_OURS = re.compile(
    r"(meta|judging|scoring)\.(json|partial)|(weights|adapter)\.(safetensors|\d+\.partial)"
    r"|(solutions|verdicts|evidence|rewards|scores|references)\.\d+\.jsonl|(solutions|scores|references)\.\d+\.arrows"
)


class RoundStore:
    """Open the rounds of one run under ``root``.

    Args:
        root: folder with one subfolder per round.
        keep: newest rounds kept on disk; older ones are removed when a new one is opened. 0 keeps all.
        rank: of this process; every rank writes its own files.
        inherited: folders of the runs that this one was resumed from, the nearest first: a round that is not in ``root`` is
            copied from them.
    """

    def __init__(self, root: Path, keep: int = 0, rank: int = 0, inherited: Sequence[Path] = ()) -> None:
        self.root = Path(root)
        self.keep = keep
        self.rank = rank
        self.inherited = tuple(inherited)

    def open(self, index: int, meta: Mapping[str, Any], judging: Mapping[str, Any] | None = None) -> RoundFile:
        """Open a round and reuse what an interrupted run stored of it, if ``meta`` and ``judging`` are the same.

        A round of other settings or another policy (``meta``) is removed with a warning. One with other judging settings
        (``judging``) keeps its solutions and loses its verdicts, with a warning. If several ranks share a disk, one has to open
        the round before the rest.

        Raises:
            StorageError: it cannot be written, or holds files that are not of a round.
        """
        try:
            return self._opened(index, meta, judging)
        except OSError as error:
            raise StorageError(
                f"rounds cannot be stored in {self.root} ({error.strerror or error}); free space, make it writable, or set "
                "data.store_dir"
            ) from error

    def _opened(self, index: int, meta: Mapping[str, Any], judging: Mapping[str, Any] | None) -> RoundFile:
        folder = self.root / f"round_{index:06d}"
        written = json.loads(json.dumps(dict(meta)))
        means = json.loads(json.dumps(dict(judging or {})))
        stored = _read_meta(folder / "meta.json")
        if stored is not None and stored != written:
            changed = sorted(k for k in written.keys() | stored.keys() if written.get(k) != stored.get(k))
            log.warning("round %d on disk is invalid and is sampled again: %s changed", index, ", ".join(changed))
        if stored != written:
            if others := _remove_round(folder):
                raise StorageError(
                    f"{folder} would be a stored round and holds {others[0]}, which is not of one; move it away, or set "
                    "data.store_dir"
                )
            folder.mkdir(parents=True, exist_ok=True)
            self._copy_inherited(folder, written)
            write_whole(folder / "meta.json", json.dumps(written, indent=1))
        file = RoundFile(folder, self.rank)
        if _read_meta(folder / "judging.json") != means:
            if any(file.verdict_files()):
                log.warning(
                    "the verdicts of round %d on disk are invalid and are judged again: judge or verifier changed",
                    index,
                )
            file.invalidate_verdicts()
            write_whole(folder / "judging.json", json.dumps(means, indent=1))
        self._forget_old(index)
        return file

    def _copy_inherited(self, folder: Path, meta: Mapping[str, Any]) -> None:
        """Copy the round from the run that this one was resumed from, if its settings are the same."""
        for root in self.inherited:
            source = root / folder.name
            if source.resolve() != folder.resolve() and _read_meta(source / "meta.json") == meta:
                for path in sorted(source.iterdir()):
                    if (
                        _OURS.fullmatch(path.name) and path.name != "meta.json"
                    ):  # written last: the round is then complete
                        shutil.copyfile(path, folder / path.name)
                return

    def _forget_old(self, newest: int) -> None:
        if self.keep:
            for folder in self.root.glob("round_*"):
                ours = _ROUND.fullmatch(folder.name) and (folder / "meta.json").is_file()
                if ours and int(folder.name.removeprefix("round_")) <= newest - self.keep:
                    _remove_round(folder)


def match_scores(file: RoundFile, weights: str) -> None:
    """Keep a round's stored scores if they are of the weights with this fingerprint, and delete them if not.

    For a round that is trained on with other weights than those that sampled it, which ``meta.json`` names.
    """
    path, scored_with = file.folder / "scoring.json", {"weights": weights}
    if _read_meta(path) != scored_with:
        file.invalidate_scores()
        write_whole(path, json.dumps(scored_with))


def _remove_round(folder: Path) -> list[str]:
    """Delete our files, and the folder if nothing else is in it; return the names of other files."""
    others = []
    with contextlib.suppress(FileNotFoundError):  # it does not exist, or another process removes it too
        for path in sorted(folder.iterdir()):
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
            else:
                others.append(path.name)
        if not others:
            folder.rmdir()
    return others


def _read_meta(path: Path) -> dict[str, Any] | None:
    """Return the stored settings, None if there are none or the file is another program's."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it, so that it is never incomplete."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
