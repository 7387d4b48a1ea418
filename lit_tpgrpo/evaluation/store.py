"""Evaluated groups on disk: one JSON line a group, written when it completes, read by an evaluation that is repeated.

A folder per evaluation, ``evaluation/val-step_000020-1f3c9a7b`` in the run's folder: the split, the optimizer steps behind the
weights, and a hash of weights and settings. It holds ``groups.R.jsonl`` of each rank R and, when the evaluation is complete,
``scores.json``, ``table.md`` and ``table.csv``. ``key`` in a line is a hash of what decides its solutions. It is reused where
that is the same, on any number of ranks: a group that was complete is not sampled again. ``cost``, where the engine counts, is
what it cost to sample.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.evaluation.sets import HeldoutTask
from lit_tpgrpo.fingerprint import content_hash
from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.records import EvaluatedGroup, Solution, StopReason
from lit_tpgrpo.token_arrays import NO_FLOATS, NO_INTS, token_ints

log = logging.getLogger(__name__)


class EvaluationStore:
    """Read and append the groups of one evaluation.

    Args:
        root: ``evaluation`` in the run's folder.
        split: what is evaluated.
        settings: what all groups are sampled with, as plain values: weights, seed, template, ...
        sets: what the sets are sampled with, as plain values.
        version: optimizer steps behind the weights.
        rank: of this process, which writes one file.
        inherited: ``evaluation`` folders of other runs that are read as well: of the run that this one was resumed from.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        settings: Mapping[str, Any],
        sets: Mapping[str, Any],
        version: int,
        rank: int = 0,
        inherited: Sequence[Path] = (),
    ) -> None:
        stem = f"{split}-step_{version:06d}"
        self.folder = root / f"{stem}-{content_hash([split, settings, sets], 6)}"
        self._settings, self._sets, self._version, self._rank = settings, sets, version, rank
        self._stem, self._roots = stem, tuple(dict.fromkeys((root, *inherited)))
        self._costs: dict[str, dict[str, float]] = {}

    def key(self, task: HeldoutTask) -> str:
        """Return a hash of everything that decides a group's solutions."""
        problem, sampling = task.problem, task.set.sampling
        what = [problem.uid, problem.prompt, problem.answer, task.seed, sampling.samples, repr(sampling.params)]
        return content_hash([what, self._settings], 6)

    def groups(self, tasks: Sequence[HeldoutTask]) -> dict[int, tuple[Solution, ...]]:
        """Return the stored solutions of tasks, by position in ``tasks``, without log-probs and token offsets."""
        wanted = {self.key(task): place for place, task in enumerate(tasks)}
        stored: dict[int, tuple[Solution, ...]] = {}
        files = [file for root in self._roots for file in sorted(root.glob(f"{self._stem}-*/groups.*.jsonl"))]
        for file in sorted(files, key=lambda f: f.parent != self.folder):
            for row in read_lines(file):
                place = wanted.get(str(row.get("key")))
                if place is None or place in stored:
                    continue
                try:
                    stored[place] = _solutions(row, tasks[place], self._version)
                    self._costs[row["key"]] = {str(k): float(v) for k, v in row.get("cost", {}).items()}
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    stored.pop(place, None)
                    log.warning("a group in %s cannot be read (%s); it is sampled again", file, error)
                    continue
                if file.parent != self.folder:
                    self._append(row)  # so that the folder of this evaluation is complete
        return stored

    def cost(self, task: HeldoutTask) -> Mapping[str, float]:
        """Return what a group that ``groups`` read cost to sample; nothing where its engine did not count."""
        return self._costs.get(self.key(task), {})

    def add(self, task: HeldoutTask, group: EvaluatedGroup) -> None:
        """Append a verified group as one line.

        Raises:
            StorageError: it cannot be written.
        """
        solutions = [
            {
                "sample": solution.sample,
                "outcome": outcome.value,
                "answer": answer,
                "stop": solution.stop.value,
                "tokens": len(solution.completion_ids),
                "text": solution.text,
                "completion_ids": solution.completion_ids.tolist(),
            }
            for solution, outcome, answer in zip(group.solutions, group.outcomes, group.answers, strict=True)
        ]
        head = {"key": self.key(task), "set": task.set.name, "index": task.index, "policy_version": self._version}
        cost = {"cost": dict(group.cost)} if group.cost else {}
        self._append(head | {"problem": asdict(group.problem), "solutions": solutions} | cost)

    def open(self) -> None:
        """Create the folder, and write into it what the evaluation was sampled with.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._rank == 0:
                settings = dict(self._settings) | {"sets": dict(self._sets)}
                (self.folder / "settings.json").write_text(json.dumps(settings, indent=1, default=str) + "\n")
        except OSError as error:
            raise StorageError(
                f"the evaluation cannot be stored in {self.folder} ({error.strerror or error}); free space, make it writable, "
                "or set the logger's save_dir to another folder"
            ) from error

    def _append(self, row: dict[str, Any]) -> None:
        append_line(self.folder / f"groups.{self._rank}.jsonl", row)


def _solutions(row: Mapping[str, Any], task: HeldoutTask, version: int) -> tuple[Solution, ...]:
    """Rebuild a group's solutions.

    Raises:
        ValueError: samples are missing or repeated.
    """
    solutions = tuple(
        Solution(
            problem_uid=task.problem.uid,
            sample=int(stored["sample"]),
            prompt_ids=NO_INTS,
            completion_ids=token_ints(stored["completion_ids"], "completion_ids"),
            logprobs=NO_FLOATS,
            stop=StopReason(stored["stop"]),
            policy_version=version,
            text=stored["text"] if isinstance(stored["text"], str) else "",
            token_starts=NO_INTS,
        )
        for stored in row["solutions"]
    )
    samples = [solution.sample for solution in solutions]
    if samples != list(range(task.set.sampling.samples)):
        raise ValueError(f"it holds samples {samples}, expected 0 to {task.set.sampling.samples - 1}")
    return solutions
