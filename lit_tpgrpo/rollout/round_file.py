"""The files of one stored round: append what completes, read what is whole and consistent.

From each rank R: ``solutions.R`` (groups sampled in one batch, one batch a record), ``verdicts.R.jsonl`` (one judged solution a
line); with ``data.rewards`` ``rewards.R.jsonl`` (a term's value for one solution a line), with ``data.evidence``
``evidence.R.jsonl`` (values by key, those computed together on one line), where the engine's log-probs are corrected
``scores.R`` and with a KL term in the reward ``references.R`` (log-probs under the trainer's policy and under the reference,
one solution a record). Records are pairs of an ``.arrows`` and a ``.jsonl`` file (``RecordFile``), and hold all that there is
of each token. Append-only; what a crash cut short is dropped when read. Only consistent data are used: groups are complete,
verdicts and scores name the solution that they belong to, and keys say what the values were computed from.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.records import Outcome, Problem, Solution, Step, Verdict
from lit_tpgrpo.rollout.record_file import RecordFile
from lit_tpgrpo.rollout.store_rows import (
    UNREADABLE,
    misfit,
    read_int,
    read_text,
    read_value,
    read_verdict,
    reason_of,
)
from lit_tpgrpo.rollout.token_records import (
    LOGPROBS,
    SOLUTIONS,
    Sampled,
    logprobs_batch,
    read_logprobs,
    read_solutions,
    solution_digest,
    solutions_batch,
)
from lit_tpgrpo.token_arrays import TokenFloats, token_floats

log = logging.getLogger(__name__)

RewardKey = tuple[int, int, str]
"""Group index, sample and the name of a reward term."""
K = TypeVar("K")
# Not ``asdict``, which copies deeply: it was 0.28 of a round without its engine and judge (benchmarks.round_overhead).
_STEP = tuple(field.name for field in fields(Step))


class RoundFile:
    """Read and append the lines of one round. Groups are identified by their index in the round over all ranks."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.rank = rank
        self._records: dict[str, RecordFile] = {}
        self._judging = threading.Lock()  # undecided solutions get their verdicts from another thread than the judge's

    def solutions(self, group_size: int, wanted: Collection[int] | None = None) -> dict[int, Sampled]:
        """Return complete groups by group index, only the ``wanted`` ones if given; solutions in the order of their samples.

        A group that lacks or repeats one of its ``group_size`` samples, or cannot be read, is left out with a warning: its
        statistics would be wrong, so it has to be sampled again. Of several complete copies the last one is used.
        """
        complete: dict[int, Sampled] = {}
        damaged: dict[int, str] = {}
        for group_index, problem, solutions in self.groups(wanted):
            if (reason := misfit(solutions, group_size)) is None:
                complete[group_index] = (problem, solutions)
            else:
                damaged[group_index] = reason
        for group_index in sorted(damaged.keys() - complete.keys()):
            log.warning("group %d in %s %s; it is sampled again", group_index, self.folder, damaged[group_index])
        return complete

    def groups(self, wanted: Collection[int] | None = None) -> Iterator[tuple[int, Problem, tuple[Solution, ...]]]:
        """Yield the groups of all records that can be read, whole or not, in the order of their appends."""

        def has_wanted(line: dict[str, Any]) -> bool:
            groups = [read_int(group) for group in line["groups"]]
            return wanted is None or any(group in wanted for group in groups)

        for path in self._files("solutions"):
            for _, stored in RecordFile(path, SOLUTIONS).records(has_wanted, read_solutions):
                for index, (problem, solutions) in stored.items():
                    if wanted is None or index in wanted:
                        yield index, problem, solutions

    def add_solutions(self, groups: Mapping[int, Sampled]) -> None:
        """Append groups that were sampled together as one record: after a crash all of them are stored, or none."""
        self._local_records("solutions", SOLUTIONS).append({"groups": list(groups)}, solutions_batch(groups))

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
        row = {
            "group": group,
            "sample": solution.sample,
            "of": solution_digest(solution, problem.answer),
            "outcome": outcome.value,
            "answer": answer,
            "steps": [{name: getattr(step, name) for name in _STEP} for step in verdict.steps],
            "labels": [label.value for label in verdict.labels],
            "note": verdict.note,
            **({} if verdict.wrong_shares is None else {"wrong_shares": verdict.wrong_shares}),
        }
        with self._judging:
            append_line(self._local_file("verdicts"), row)

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

    def scores(self, solutions: Mapping[int, Solution]) -> dict[int, TokenFloats]:
        """Return the trainer's log-probs of these solutions, by solution index (group index x G + sample)."""
        digests = {index: solution_digest(s) for index, s in solutions.items()}
        rows = self._logprobs("scores", lambda line: digests.get(read_int(line["place"])) == read_text(line["of"]))
        return {line["place"]: p for line, p in rows if len(p) == len(solutions[line["place"]].completion_ids)}

    def add_score(self, index: int, solution: Solution, logprobs: Sequence[float] | TokenFloats) -> None:
        """Append the trainer's log-probs of a solution as one record."""
        self._add_logprobs("scores", {"place": index, "of": solution_digest(solution)}, logprobs)

    def invalidate_scores(self) -> None:
        """Delete the trainer's log-probs: they are of other weights."""
        for path in self.folder.glob("scores.*"):
            path.unlink(missing_ok=True)
        self._records.pop("scores", None)

    def references(self, keys: Collection[str]) -> dict[str, TokenFloats]:
        """Return the reference's log-probs under these keys, which say of which tokens and weights they are."""
        rows = self._logprobs("references", lambda line: read_text(line["key"]) in keys)
        return {line["key"]: logprobs for line, logprobs in rows}

    def add_reference(self, key: str, logprobs: Sequence[float] | TokenFloats) -> None:
        """Append the reference's log-probs of a solution as one record."""
        self._add_logprobs("references", {"key": key}, logprobs)

    def invalidate_verdicts(self) -> None:
        """Delete the verdicts and keep the solutions: the judge has changed."""
        for path in self.verdict_files():
            path.unlink(missing_ok=True)

    def verdict_files(self) -> list[Path]:
        """Return the verdict files of all ranks."""
        return self._files("verdicts")

    def _logprobs(
        self, kind: str, wanted: Callable[[dict[str, Any]], bool]
    ) -> Iterator[tuple[dict[str, Any], TokenFloats]]:
        for path in self._files(kind):
            yield from RecordFile(path, LOGPROBS).records(wanted, read_logprobs)

    def _add_logprobs(self, kind: str, line: Mapping[str, Any], logprobs: Sequence[float] | TokenFloats) -> None:
        self._local_records(kind, LOGPROBS).append(line, logprobs_batch(token_floats(logprobs, "log-probs")))

    def _local_records(self, kind: str, schema: pa.Schema) -> RecordFile:
        """Return the file that this rank appends to, one object for all appends: it knows where the last one ended."""
        if kind not in self._records:
            self._records[kind] = RecordFile(self._local_file(kind), schema)
        return self._records[kind]

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
