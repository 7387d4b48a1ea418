"""The scalars that a run logged, from TensorBoard's event files or the CSV logger's table."""

from __future__ import annotations

import bisect
import csv
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lit_tpgrpo.errors import InputError

EVENTS = "events.out.tfevents.*"
CSV = "metrics.csv"
_TOKENS = "train/tokens"


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: values by optimizer step, ascending; wall times in seconds where the logger stores them."""

    steps: tuple[int, ...]
    values: tuple[float, ...]
    times: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, step: int) -> float | None:
        """Return the value that was logged at a step, None if there is none."""
        at = bisect.bisect_left(self.steps, step)
        return self.values[at] if at < len(self.steps) and self.steps[at] == step else None


def read_metrics(folder: Path) -> dict[str, Series]:
    """Read a run's scalars by name; of two values at one step the later one counts. Without files of a logger: none.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        if any(folder.glob(EVENTS)):
            return _events(folder)
        return _table(folder / CSV) if (folder / CSV).is_file() else {}
    except OSError as error:
        raise InputError(f"{error.filename or folder} cannot be read ({error.strerror}); make it readable") from error


def _events(folder: Path) -> dict[str, Series]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in folder.glob(EVENTS):
        path.open("rb").close()  # TensorBoard reads none of a file that it may not read, and does not say so
    events = EventAccumulator(str(folder), {"scalars": 0, "tensors": 1, "histograms": 1, "compressedHistograms": 1})
    events.Reload()
    rows = {
        tag: [(e.step, float(e.value), e.wall_time) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    return {tag: series for tag, values in rows.items() if (series := _series(values)) is not None}


def _table(path: Path) -> dict[str, Series]:
    """Read a table with one column a metric; a line that a crash cut short lacks its last columns, or their last digits."""
    columns: dict[str, list[tuple[int, float, float]]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(line.replace("\0", "") for line in file):
            step = row.get("step") or ""
            for name, text in row.items() if re.fullmatch(r"\d+(\.0*)?", step) else ():
                if name not in (None, "step") and isinstance(text, str) and (value := _number(text)) is not None:
                    columns.setdefault(name, []).append((int(float(step)), value, math.nan))
    found = {name: _series(rows) for name, rows in columns.items()}
    return {name: Series(s.steps, s.values) for name, s in found.items() if s is not None}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _series(rows: list[tuple[int, float, float]]) -> Series | None:
    last = {step: (value, time) for step, value, time in rows}
    steps = tuple(sorted(last))
    if not steps:
        return None
    return Series(steps, tuple(last[s][0] for s in steps), tuple(last[s][1] for s in steps))


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round: its metrics by name, and the seconds of its stages.

    ``seconds`` has ``sampling``, ``judging`` (verification included), ``training`` and, where wall times are known,
    ``other``: evaluations, checkpoints and audits until the next round is complete.
    """

    index: int
    step: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]


def rounds(metrics: Mapping[str, Series], one_process: bool = True) -> list[RoundRow]:
    """Return the rounds of a run in order.

    Args:
        metrics: of the run.
        one_process: whether a single process logged them: else the time between two of them would count as the run's.
    """
    index = metrics.get("round")
    if index is None:
        return []
    # A step logs under the number of steps before it, evaluations and rounds under the number of steps so far.
    trained = max(series.steps[-1] + (name == _TOKENS) for name, series in metrics.items())
    starts = [*index.steps, trained]
    times = _step_seconds(metrics)
    seconds = [
        {
            "sampling": _at(metrics, "rollout/seconds", step),
            "judging": _at(metrics, "judge/seconds", step),
            "training": _training_seconds(times, step, starts[n + 1]),
        }
        for n, step in enumerate(index.steps)
    ]
    if index.times is not None and one_process:
        for n, (begin, end) in enumerate(itertools.pairwise(index.times)):
            known = seconds[n]["training"] + seconds[n + 1]["sampling"] + seconds[n + 1]["judging"]
            seconds[n]["other"] = max(0.0, end - begin - known)
    values = {
        step: {name: value for name, series in metrics.items() if (value := series.at(step)) is not None}
        for step in index.steps
    }
    return [
        RoundRow(int(number), step, values[step], parts)
        for number, step, parts in zip(index.values, index.steps, seconds, strict=True)
    ]


def _at(metrics: Mapping[str, Series], name: str, step: int) -> float:
    value = metrics[name].at(step) if name in metrics else None
    return 0.0 if value is None or not math.isfinite(value) else value


def _step_seconds(metrics: Mapping[str, Series]) -> dict[int, float]:
    """Return the seconds of the logged optimizer steps: train/tokens / train/tokens_per_s."""
    tokens, speed = metrics.get(_TOKENS), metrics.get("train/tokens_per_s")
    if tokens is None or speed is None:
        return {}
    speeds = dict(zip(speed.steps, speed.values, strict=True))
    pairs = ((step, n, speeds.get(step, 0.0)) for step, n in zip(tokens.steps, tokens.values, strict=True))
    return {step: n / per_s for step, n, per_s in pairs if per_s > 0}


def _training_seconds(times: Mapping[int, float], first: int, end: int) -> float:
    """Return the seconds of all steps from ``first`` before ``end``, of which ``trainer.log_every_n_steps`` logs some.

    A round's steps take the mean of those that were logged, the run's mean where none was.
    """
    logged = [s for step in range(first, end) if (s := times.get(step)) is not None] or list(times.values())
    return sum(logged) / len(logged) * (end - first) if logged else 0.0
