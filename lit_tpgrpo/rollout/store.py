"""Rounds on disk: every solution and verdict is written as it completes, so that a crash loses at most the line in flight.

One folder a round, shared by all processes: ``meta.json`` (what its solutions were made with), ``judging.json`` (what its
verdicts were made with), and from each process, named by its rank: ``solutions.R.jsonl`` (groups sampled in one batch, a batch
a line), ``verdicts.R.jsonl`` (one judged solution a line) and, where the engine's log-probs are corrected, ``scores.R.jsonl``
(the trainer's log-probs, one solution a line). Groups go by their place in the round over all processes, and every process
reads all files: a run goes on from another number of processes. Append-only; a line cut short by a crash is dropped when read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.records import Outcome, Problem, Solution, Step, StepLabel, StopReason, Verdict

log = logging.getLogger(__name__)


class RoundStore:
    """The rounds of one run under ``root``.

    Args:
        root: folder that holds one subfolder a round.
        keep: newest rounds kept on disk; older ones are removed when a new one is opened. 0 keeps all.
        rank: of this process, which writes files of its own.
    """

    def __init__(self, root: Path, keep: int = 0, rank: int = 0) -> None:
        self.root = Path(root)
        self.keep = keep
        self.rank = rank

    def open(self, index: int, meta: Mapping[str, Any], judging: Mapping[str, Any] | None = None) -> RoundFile:
        """The round's file, with what an interrupted run left of it where ``meta`` and ``judging`` are the same.

        A round left by other settings or another policy (``meta``) is void: it is removed, with a warning. One that was
        judged by other means (``judging``) keeps its solutions and loses its verdicts, with a warning. Of several processes
        that share a disk one opens the round first; the others then find it as it should be.

        Raises:
            StorageError: it cannot be written.
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
        found = _read_meta(folder / "meta.json")
        if found is not None and found != written:
            changed = sorted(k for k in written.keys() | found.keys() if written.get(k) != found.get(k))
            log.warning("round %d on disk is void and is made anew: %s changed", index, ", ".join(changed))
        if found != written:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _write_whole(folder / "meta.json", json.dumps(written, indent=1))
        file = RoundFile(folder, self.rank)
        if _read_meta(folder / "judging.json") != means:
            if any(file.verdict_files()):
                log.warning(
                    "the verdicts of round %d on disk are void and are made anew: judge or verifier changed", index
                )
            file.void_verdicts()
            _write_whole(folder / "judging.json", json.dumps(means, indent=1))
        self._forget_old(index)
        return file

    def _forget_old(self, newest: int) -> None:
        if self.keep:
            for folder in self.root.glob("round_*"):
                if int(folder.name.removeprefix("round_")) <= newest - self.keep:
                    shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too


class RoundFile:
    """One round's lines: read what is there, append what completes. Groups go by their place in the whole round."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.rank = rank

    def solutions(self, wanted: Collection[int] | None = None) -> dict[int, tuple[Problem, tuple[Solution, ...]]]:
        """Complete groups by their place, only the ``wanted`` ones where given."""
        return {
            group["group"]: (Problem(**group["problem"]), tuple(_solution(s) for s in group["solutions"]))
            for line in self._lines("solutions")
            for group in line["groups"]
            if wanted is None or group["group"] in wanted
        }

    def add_solutions(self, groups: Mapping[int, tuple[Problem, Sequence[Solution]]]) -> None:
        """Groups that were sampled together: after a crash all of them are there, or none."""
        rows = [
            {
                "group": place,
                "problem": asdict(problem),
                "solutions": [asdict(s) | {"stop": s.stop.value} for s in solutions],
            }
            for place, (problem, solutions) in groups.items()
        ]
        append_line(self._own("solutions"), {"groups": rows})

    def verdicts(
        self, wanted: Collection[int] | None = None
    ) -> dict[tuple[int, int], tuple[Outcome, str | None, Verdict]]:
        """Outcome, extracted answer and verdict by (group, sample), only of the ``wanted`` groups where given."""
        return {
            (line["group"], line["sample"]): (Outcome(line["outcome"]), line["answer"], _verdict(line))
            for line in self._lines("verdicts")
            if wanted is None or line["group"] in wanted
        }

    def add_verdict(self, group: int, sample: int, outcome: Outcome, answer: str | None, verdict: Verdict) -> None:
        append_line(
            self._own("verdicts"),
            {
                "group": group,
                "sample": sample,
                "outcome": outcome.value,
                "answer": answer,
                "steps": [asdict(step) for step in verdict.steps],
                "labels": [label.value for label in verdict.labels],
                "note": verdict.note,
            },
        )

    def scores(self, wanted: Collection[int] | None = None) -> dict[int, tuple[float, ...]]:
        """The trainer's log-probs of a solution by its place in the round (group x G + sample)."""
        return {
            line["place"]: tuple(line["logprobs"])
            for line in self._lines("scores")
            if wanted is None or line["place"] in wanted
        }

    def add_score(self, place: int, logprobs: Sequence[float]) -> None:
        append_line(self._own("scores"), {"place": place, "logprobs": list(logprobs)})

    def void_verdicts(self) -> None:
        """Forget the verdicts, keep the solutions: the judge has changed."""
        for path in self.verdict_files():
            path.unlink(missing_ok=True)

    def verdict_files(self) -> list[Path]:
        """The files of all processes that have written verdicts."""
        return self._files("verdicts")

    def _own(self, kind: str) -> Path:
        return self.folder / f"{kind}.{self.rank}.jsonl"

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}.*.jsonl"))

    def _lines(self, kind: str) -> Iterator[dict[str, Any]]:
        for path in self._files(kind):
            yield from read_lines(path)


def _solution(row: dict[str, Any]) -> Solution:
    tuples = ("prompt_ids", "completion_ids", "logprobs", "token_starts")
    fields: Any = row | {key: tuple(row[key]) for key in tuples} | {"stop": StopReason(row["stop"])}
    return Solution(**fields)


def _verdict(line: dict[str, Any]) -> Verdict:
    steps = tuple(Step(**step) for step in line["steps"])
    return Verdict(steps, tuple(StepLabel(label) for label in line["labels"]), line["note"])


def _read_meta(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write_whole(path: Path, text: str) -> None:
    """Never half a file: written beside it and renamed."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
