"""One judge on one set: judged in chunks, each kept as one line, so that an interrupted audit goes on where it was."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_tpgrpo.audit import Report, check_auditable, counts_of, verdict_row
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.judges.base import Judge, JudgeCase
from lit_tpgrpo.judges.error_detection import ErrorDetectionReport, ErrorScores
from lit_tpgrpo.judges.scoring import LabelCounts
from lit_tpgrpo.records import StepLabel, Verdict
from lit_tpgrpo.seeds import derived_seed

COUNTED = ("requests", "requests_stored", "replies_invalid", "tokens_prompt", "tokens_completion", "cost")
"""Counts of a judge that are kept, beside ``abstained_REASON``; its shares and latencies are of a chunk only."""


@dataclass
class PairScores:
    """What a judge's verdicts on a set's solutions come to.

    Attributes:
        of: solutions of the set.
        labels: for each judged solution, its steps by true and given label.
        detection: for each, its scores of error detection; None if the set has no error steps.
        abstained: solutions without a verdict.
        judged: solutions behind the next two: those of all chunks.
        counts: the judge's requests, tokens, cost and reasons of abstentions.
        seconds: that judging took.
    """

    of: int
    labels: list[LabelCounts] = field(default_factory=list)
    detection: list[ErrorScores] | None = None
    abstained: int = 0
    judged: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def chosen_indices(has_label: Sequence[bool], limit: int | None) -> list[int]:
    """Return the indices of the solutions to judge: all, or a random sample of those with a known label, then of others.

    A smaller sample is part of a larger one.

    Args:
        has_label: for each solution of the set, whether a label of its steps is known.
        limit: most solutions.
    """
    n = len(has_label)
    order = list(range(n))
    if limit is None or limit >= n:
        return order
    random.Random(derived_seed("judge audit", n)).shuffle(order)
    return sorted(order, key=lambda i: not has_label[i])[:limit]  # stable: random within both


def audit_pair(
    open_judge: Callable[[], Judge],
    report: Report,
    limit: int | None,
    file: Path,
    setting: Mapping[str, Any],
    chunk: int,
    shown: Callable[[Sequence[int]], Iterable[int]] = lambda starts: starts,
) -> PairScores:
    """Judge what ``file`` does not hold yet, and score all.

    Args:
        open_judge: builds the judge; not called if there is nothing left to judge.
        report: the set.
        limit: most solutions to judge; None judges all.
        file: a JSON line for the settings, then one for each chunk of verdicts with the judge's counts.
        setting: the options of judge and set, which must be those that the file was begun with; a larger limit adds to it.
        chunk: solutions that are judged at once; what an interruption loses.
        shown: wraps the starts of the chunks, e.g. with a progress bar.

    Raises:
        ConfigError: the file holds verdicts of another judge or set.
    """
    cases = report.cases
    has_label = [any(label is not None for label in report.known_labels(i)) for i in range(len(cases))]
    chosen = chosen_indices(has_label, limit)
    lines = list(read_lines(file))
    if lines and lines[0] != {"setting": dict(setting)}:
        raise ConfigError(
            f"{file} was begun with {lines[0].get('setting')}, and now there is {dict(setting)}; remove it, or give another "
            "--work"
        )
    done = {row["index"] for line in lines[1:] for row in line["rows"]}
    todo = [i for i in chosen if i not in done]
    if todo:
        if not lines:
            file.parent.mkdir(parents=True, exist_ok=True)
            append_line(file, {"setting": dict(setting)})
        judge = open_judge()
        try:
            check_auditable(judge)
            for start in shown(range(0, len(todo), chunk)):
                append_line(file, _judged_chunk(judge, cases, todo[start : start + chunk], report))
        finally:
            judge.close()
    return _scores(report, [line for line in read_lines(file) if "rows" in line], frozenset(chosen))


def _judged_chunk(judge: Judge, cases: Sequence[JudgeCase], indices: Sequence[int], report: Report) -> dict[str, Any]:
    """Return the line of a chunk: its rows, and what the judge counted."""
    started = time.perf_counter()
    rows = [
        {"index": indices[i]} | verdict_row(cases[indices[i]], verdict, report.truth(indices[i]))
        for i, verdict in judge.judge([cases[i] for i in indices])
    ]
    seconds = time.perf_counter() - started
    metrics = judge.metrics()
    counts = {
        name: value
        for name, value in metrics.items()
        if value and (name in COUNTED or (name.startswith("abstained_") and name != "abstained_share"))
    }
    return {"judge": settings_of(judge), "rows": rows, "counts": counts, "seconds": seconds}


def _scores(report: Report, lines: Sequence[Mapping[str, Any]], chosen: frozenset[int]) -> PairScores:
    """Score the stored verdicts on the chosen solutions.

    Their labels are per given step, so the judge's own steps are not needed. Counts and seconds are those of whole chunks.
    """
    cases = report.cases
    is_detection = isinstance(report, ErrorDetectionReport)
    scores = PairScores(len(cases), detection=[] if is_detection else None)
    for line in lines:
        scores.judged += len(line["rows"])
        scores.counts.update(line["counts"])
        scores.seconds += line["seconds"]
        for row in line["rows"]:
            index = row["index"]
            if index not in chosen:
                continue
            verdict = Verdict(cases[index].steps, tuple(map(StepLabel, row["labels"])), row["note"])
            scores.labels.append(counts_of(cases[index], report.known_labels(index), verdict))
            scores.abstained += verdict.abstained
            if scores.detection is not None and is_detection:
                alone = ErrorScores()
                alone.add(report.records[index], verdict)
                scores.detection.append(alone)
    return scores
