"""Rounds on disk: every solution and verdict is written when it completes, so a crash loses at most one line.

One folder per round, shared by all ranks: ``meta.json`` (settings that its solutions depend on), ``judging.json`` (settings
that its verdicts depend on), and from each rank R: ``solutions.R.jsonl`` (groups sampled in one batch, one batch
per line), ``verdicts.R.jsonl`` (one judged solution a line); with ``data.rewards`` ``rewards.R.jsonl`` (a term's value for one
solution a line), with ``data.evidence`` ``evidence.R.jsonl`` (values by key, those computed together on one line) and, where
the engine's log-probs are corrected, ``scores.R.jsonl`` (the trainer's log-probs, one solution a line). Groups are identified
by their index in the round over all ranks, and every rank reads all files: a run can be resumed on another number of ranks.
Append-only; an incomplete last line is dropped when read. Only consistent data are used: groups are complete, verdicts and
scores name the solution that they belong to, and the key of evidence says what it was computed from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.records import Outcome, Problem, Solution, Verdict
from lit_tpgrpo.rollout.store_rows import (
    FLOATS,
    UNREADABLE,
    Sampled,
    read_group,
    read_int,
    read_text,
    read_value,
    read_verdict,
    reason_of,
)

log = logging.getLogger(__name__)

RewardKey = tuple[int, int, str]
"""Group index, sample and the name of a reward term."""
K = TypeVar("K")
_ROUND = re.compile(r"round_\d{6}")
_OURS = re.compile(r"(meta|judging)\.(json|partial)|(solutions|verdicts|evidence|rewards|scores)\.\d+\.jsonl")


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


class RoundFile:
    """Read and append the lines of one round. Groups are identified by their index in the round over all ranks."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.rank = rank

    def solutions(self, group_size: int, wanted: Collection[int] | None = None) -> dict[int, Sampled]:
        """Return complete groups by group index, only the ``wanted`` ones if given; solutions in the order of their samples.

        A group that lacks or repeats one of its ``group_size`` samples, or cannot be read, is left out with a warning: its
        statistics would be wrong, so it has to be sampled again. Of several complete copies the last one is used.
        """
        complete: dict[int, Sampled] = {}
        damaged: dict[int, str] = {}
        for group_index, row in self._rows(
            "solutions", lambda line: [(read_int(group["group"]), group) for group in line["groups"]]
        ):
            if wanted is not None and group_index not in wanted:
                continue
            try:
                group = read_group(row)
            except UNREADABLE as error:
                damaged[group_index] = f"cannot be read ({reason_of(error)})"
                continue
            samples = [s.sample for s in group[1]]
            if samples == list(range(group_size)):
                complete[group_index] = group
            else:
                damaged[group_index] = f"holds samples {samples}, expected 0 to {group_size - 1}"
        for group_index in sorted(damaged.keys() - complete.keys()):
            log.warning("group %d in %s %s; it is sampled again", group_index, self.folder, damaged[group_index])
        return complete

    def add_solutions(self, groups: Mapping[int, Sampled]) -> None:
        """Append groups that were sampled together as one line: after a crash all of them are stored, or none."""
        rows = [
            {
                "group": group_index,
                "problem": asdict(problem),
                "solutions": [asdict(s) | {"stop": s.stop.value} for s in solutions],
            }
            for group_index, (problem, solutions) in groups.items()
        ]
        append_line(self._local_file("solutions"), {"groups": rows})

    def verdicts(self, groups: Mapping[int, Sampled]) -> dict[tuple[int, int], tuple[Outcome, str | None, Verdict]]:
        """Return outcome, extracted answer and verdict of these solutions, by (group index, sample).

        Verdicts on earlier samples of the same index, or with another gold answer, are not returned.
        """
        digests = {
            (group_index, s.sample): solution_digest(s, problem.answer)
            for group_index, (problem, solutions) in groups.items()
            for s in solutions
        }
        stored: dict[tuple[int, int], tuple[Outcome, str | None, Verdict]] = {}
        for key, line in self._rows(
            "verdicts", lambda line: [((read_int(line["group"]), read_int(line["sample"])), line)]
        ):
            if key in digests and digests[key] == line.get("of"):
                try:
                    answer = None if line["answer"] is None else read_text(line["answer"])
                    stored[key] = (Outcome(line["outcome"]), answer, read_verdict(line))
                except UNREADABLE as error:
                    log.warning(
                        "the verdict on %s in %s cannot be read (%s); the solution is judged again",
                        key,
                        self.folder,
                        reason_of(error),
                    )
        return stored

    def add_verdict(
        self, group: int, problem: Problem, solution: Solution, outcome: Outcome, answer: str | None, verdict: Verdict
    ) -> None:
        """Append a judged solution as one line."""
        append_line(
            self._local_file("verdicts"),
            {
                "group": group,
                "sample": solution.sample,
                "of": solution_digest(solution, problem.answer),
                "outcome": outcome.value,
                "answer": answer,
                "steps": [asdict(step) for step in verdict.steps],
                "labels": [label.value for label in verdict.labels],
                "note": verdict.note,
                **({} if verdict.wrong_shares is None else {"wrong_shares": verdict.wrong_shares}),
            },
        )

    def rewards(self, digests: Mapping[RewardKey, str]) -> dict[RewardKey, float | None]:
        """Return the stored values of reward terms, by (group index, sample, term).

        Args:
            digests: of what each value must have been computed from, see ``rollout.rewarding``.
        """
        stored: dict[RewardKey, float | None] = {}
        for key, line in self._rows(
            "rewards",
            lambda line: [((read_int(line["group"]), read_int(line["sample"]), read_text(line["term"])), line)],
        ):
            if key in digests and digests[key] == line.get("of"):
                try:
                    stored[key] = read_value(line["value"])
                except UNREADABLE as error:
                    log.warning(
                        "a reward in %s cannot be read (%s); it is computed again", self.folder, reason_of(error)
                    )
        return stored

    def add_reward(self, key: RewardKey, digest: str, value: float | None) -> None:
        """Append a reward term's value for one solution as one line."""
        group, sample, term = key
        row = {"group": group, "sample": sample, "term": term, "of": digest, "value": value}
        append_line(self._local_file("rewards"), row)

    def evidence(self, keys: Collection[str]) -> dict[str, Any]:
        """Return the stored values of evidence under these keys, which say what each was computed from."""
        rows = self._rows(
            "evidence", lambda line: [(key, value) for key, value in line["values"].items() if key in keys]
        )
        return dict(rows)

    def add_evidence(self, values: Mapping[str, Any]) -> None:
        """Append values of evidence that were computed together as one line."""
        append_line(self._local_file("evidence"), {"values": dict(values)})

    def scores(self, solutions: Mapping[int, Solution]) -> dict[int, tuple[float, ...]]:
        """Return the trainer's log-probs of these solutions, by solution index (group index x G + sample)."""
        digests = {group_index: solution_digest(s) for group_index, s in solutions.items()}
        stored: dict[int, tuple[float, ...]] = {}
        for group_index, line in self._rows("scores", lambda line: [(read_int(line["place"]), line)]):
            if group_index in digests and digests[group_index] == line.get("of"):
                try:
                    logprobs = FLOATS.validate_python(line["logprobs"])
                except UNREADABLE as error:
                    log.warning(
                        "a score in %s cannot be read (%s); it is computed again", self.folder, reason_of(error)
                    )
                    continue
                if len(logprobs) == len(solutions[group_index].completion_ids):
                    stored[group_index] = logprobs
        return stored

    def add_score(self, group_index: int, solution: Solution, logprobs: Sequence[float]) -> None:
        """Append the trainer's log-probs of a solution as one line."""
        row = {"place": group_index, "of": solution_digest(solution), "logprobs": list(logprobs)}
        append_line(self._local_file("scores"), row)

    def invalidate_verdicts(self) -> None:
        """Delete the verdicts and keep the solutions: the judge has changed."""
        for path in self.verdict_files():
            path.unlink(missing_ok=True)

    def verdict_files(self) -> list[Path]:
        """Return the verdict files of all ranks."""
        return self._files("verdicts")

    def _local_file(self, kind: str) -> Path:
        return self.folder / f"{kind}.{self.rank}.jsonl"

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}.*.jsonl"))

    def _rows(self, kind: str, rows_of: Callable[[Any], list[tuple[K, Any]]]) -> Iterator[tuple[K, Any]]:
        """Yield the content of all lines of a kind, by key; skip a line of another schema with a warning."""
        for path in self._files(kind):
            for line in read_lines(path):
                try:
                    rows = rows_of(line)
                except UNREADABLE as error:
                    log.warning(
                        "%s has a line that cannot be read (%s); its content is computed again", path, reason_of(error)
                    )
                    continue
                yield from rows


def solution_digest(solution: Solution, gold: str = "") -> str:
    """Return a hash of the solution that a verdict or score belongs to: prompt, completion and gold answer."""
    what = json.dumps([gold, solution.prompt_ids, solution.completion_ids])
    return hashlib.blake2b(what.encode(), digest_size=8).hexdigest()


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
