"""Judged solutions for the browser of the page: from a run's folder, or from the JSON lines that ``predict`` writes.

A run with the callback ``RunReport`` has them in ``solutions.jsonl``, with advantages as they were trained on. Else the rounds
that are still stored are read: these hold verdicts, from which thoughts are merged, and no advantages.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.records import JudgedSolution, Problem, Step, StepLabel, Verdict
from lit_tpgrpo.rollout.round_file import RoundFile

RECORDED = "solutions.jsonl"
"""Name of the file that ``RunReport`` writes in the run's folder."""
ROUND_FOLDER = re.compile(r"round_(\d{6})")
_LABELS = {label.value for label in StepLabel}


@dataclass(frozen=True, slots=True)
class Piece:
    """A thought: its label, the texts of its steps, and its rewards where they are known. "" labels text without a step."""

    label: str
    steps: tuple[str, ...]
    process_reward: float | None = None
    advantage: float | None = None


@dataclass(frozen=True, slots=True)
class ShownSolution:
    """A judged solution as it is shown; ``round``, ``kept`` and ``index`` (in its round, over all problems) may be unknown."""

    uid: str
    prompt: str
    gold: str
    sample: int
    outcome: str
    answer: str | None
    stop: str
    note: str
    pieces: tuple[Piece, ...]
    outcome_advantage: float | None = None
    rewards: tuple[tuple[str, float | None], ...] = ()
    round: int | None = None
    kept: bool | None = None
    index: int | None = None

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What tells it from the others of its run: a problem may occur twice in a round."""
        return (self.round, self.index) if self.index is not None else (self.round, self.uid, self.sample)

    @property
    def group(self) -> tuple[Hashable, ...]:
        """What the solutions of one prompt in one round have in common: the index of the first of them."""
        return (self.round, self.uid) if self.index is None else (self.round, self.uid, self.index - self.sample)

    @property
    def chars(self) -> int:
        return sum(len(text) for piece in self.pieces for text in piece.steps)


def shown_row(row: dict[str, Any]) -> ShownSolution:
    """Return a row of ``rollout.rows.judged_rows`` as it is shown.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    text = _text(row["text"])
    steps = [(_int(s["start"]), _int(s["end"])) for s in row["steps"]]
    thoughts = [
        (_int(t["start"]), _int(t["end"]), _label(t["label"]), _number(t["process_reward"]), _number(t["advantage"]))
        for t in row["thoughts"]
    ]
    kept = row.get("kept")
    return ShownSolution(
        _text(row["problem"]),
        _text(row["prompt"]),
        _text(row["gold"]),
        _int(row["sample"]),
        _text(row["outcome"]),
        None if row["answer"] is None else _text(row["answer"]),
        _text(row["stop"]),
        _text(row["judge_note"]),
        tuple(_pieces(text, steps, thoughts)),
        _number(row["outcome_advantage"]),
        tuple((_text(n), None if v is None else _number(v)) for n, v in (row.get("reward") or {}).items()),
        None if row.get("round") is None else _int(row["round"]),
        kept if isinstance(kept, bool) else None,
        None if row.get("index") is None else _int(row["index"]),
    )


def _pieces(
    text: str, steps: Sequence[tuple[int, int]], thoughts: Iterable[tuple[int, int, str, float | None, float | None]]
) -> Iterator[Piece]:
    """Cut a text at its thoughts, and these at their steps; what lies in none is a piece without a label."""
    at = 0
    for start, end, label, reward, advantage in thoughts:
        if not at <= start <= end <= len(text):
            raise ValueError("thoughts do not lie in the text in order")
        if start > at:
            yield Piece("", (text[at:start],))
        inner = [s for s, _ in steps if start < s < end]
        cuts = [start, *sorted(set(inner)), end]
        yield Piece(label, tuple(text[a:b] for a, b in itertools.pairwise(cuts)), reward, advantage)
        at = end
    if at < len(text):
        yield Piece("", (text[at:],))


def stored_solutions(folder: Path) -> list[ShownSolution]:
    """Return the judged solutions of a stored round; one that has no verdict yet is left out."""
    match = ROUND_FOLDER.fullmatch(folder.name)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        size = _int(meta["group_size"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    file = RoundFile(folder)
    groups = file.solutions(size)
    verdicts = file.verdicts(groups)
    rows = []
    for index, (problem, solutions) in sorted(groups.items()):
        for solution in solutions:
            if (judged := verdicts.get((index, solution.sample))) is not None:
                outcome, answer, verdict = judged
                shown = _of_verdict(problem, JudgedSolution(solution, outcome, answer, verdict), int(match[1]))  # pyright: ignore[reportOptionalSubscript]
                rows += [] if shown is None else [shown]
    return rows


def _of_verdict(problem: Problem, judged: JudgedSolution, round_: int) -> ShownSolution | None:
    verdict = judged.verdict
    spans = [(s.start, s.end) for s in verdict.steps]
    try:
        thoughts = [(*_span(verdict, t.first_step, t.end_step), t.label.value, None, None) for t in _thoughts(verdict)]
        pieces = tuple(_pieces(judged.solution.text, spans, thoughts))
    except (ValueError, IndexError):  # a verdict that does not fit its solution
        return None
    solution = judged.solution
    return ShownSolution(
        problem.uid,
        problem.prompt,
        problem.answer,
        solution.sample,
        judged.outcome.value,
        judged.answer,
        solution.stop.value,
        verdict.note,
        pieces,
        round=round_,
    )


def _thoughts(verdict: Verdict):
    if len(verdict.steps) != len(verdict.labels):
        raise ValueError("a verdict needs one label a step")
    return merge_thoughts(verdict) if verdict.steps else ()


def _span(verdict: Verdict, first: int, end: int) -> tuple[int, int]:
    steps: tuple[Step, ...] = verdict.steps
    return steps[first].start, steps[end - 1].end


class Grouped(Protocol):
    """Whatever says which prompt in which round it belongs to."""

    @property
    def group(self) -> tuple[Hashable, ...]: ...


T = TypeVar("T", bound=Grouped)


def thinned(rows: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` solutions, taken evenly over the rows to their end, those of a problem in a round together."""
    if len(rows) <= most:
        return list(rows)
    groups = [list(g) for _, g in itertools.groupby(rows, key=lambda row: row.group)]
    for wanted in range(most * len(groups) // len(rows), 0, -1):  # fewer where the chosen ones are larger than others
        chosen = [groups[i * (len(groups) - 1) // max(1, wanted - 1)] for i in range(wanted)]
        if sum(map(len, chosen)) <= most:
            return [row for group in chosen for row in group]
    return groups[0][:most]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


def _int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"expected a whole number, got {type(value).__name__}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"expected a number, got {type(value).__name__}")
    return float(value)


def _label(value: Any) -> str:
    if value not in _LABELS:
        raise ValueError(f"expected a label, got {value!r}")
    return value
