"""The scalars that a run logged, from TensorBoard's event files or the CSV logger's table."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lit_tpgrpo.errors import InputError

EVENTS = "events.out.tfevents.*"
CSV = "metrics.csv"
_TOKENS = "train/tokens"


class _LoggedValue(NamedTuple):
    """A value as it was logged: at an optimizer step, at a wall time (NaN where the logger stores none)."""

    step: int
    value: float
    time: float


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: values by optimizer step, ascending; wall times in seconds where the logger stores them.

    Of several values at one step it has the last. ``logged`` has all, as they came; None if there are no others.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    times: tuple[float, ...] | None = None
    logged: tuple[_LoggedValue, ...] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def all_values(self) -> tuple[_LoggedValue, ...]:
        """Return all values in the order in which they were logged."""
        if self.logged is not None:
            return self.logged
        times = self.times or itertools.repeat(math.nan)
        return tuple(map(_LoggedValue, self.steps, self.values, times))


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
        tag: [_LoggedValue(e.step, float(e.value), e.wall_time) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    return {tag: _series(values, timed=True) for tag, values in rows.items() if values}


def _table(path: Path) -> dict[str, Series]:
    """Read a table with one column a metric; a line that a crash cut short lacks its last columns, or their last digits."""
    columns: dict[str, list[_LoggedValue]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(line.replace("\0", "") for line in file):
            step = row.get("step") or ""
            for name, text in row.items() if re.fullmatch(r"\d+(\.0*)?", step) else ():
                if name not in (None, "step") and isinstance(text, str) and (value := _number(text)) is not None:
                    columns.setdefault(name, []).append(_LoggedValue(int(float(step)), value, math.nan))
    return {name: _series(values, timed=False) for name, values in columns.items()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _series(logged: Sequence[_LoggedValue], timed: bool) -> Series:
    last = {value.step: value for value in logged}
    kept = [last[step] for step in sorted(last)]
    steps, values, times = zip(*kept, strict=True)
    return Series(steps, values, times if timed else None, None if kept == list(logged) else tuple(logged))


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round: its metrics by name, and the seconds of its stages.

    ``step`` is the optimizer step at which training on it begins, or that it was logged at in runs that do not say it.
    ``seconds`` has ``sampling``, ``judging`` (verification included), ``training`` and, where wall times are known,
    ``other``: evaluations, checkpoints and audits until the next round is complete.
    """

    index: int
    step: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]


def rounds(metrics: Mapping[str, Series], one_process: bool = True) -> list[RoundRow]:
    """Return the rounds of a run in order; of a round that was logged twice, as a resumed run does, the later one.

    Args:
        metrics: of the run.
        one_process: whether a single process logged them: else the time between two of them would count as the run's.
    """
    if "round" not in metrics:
        return []
    logged = _logged_rounds(metrics["round"])
    values = _round_values(metrics, logged)
    begins = [int(own.get("round_step", at.step)) for own, at in zip(values, logged, strict=True)]
    # The steps before a run was resumed are not here, nor is the time that they took.
    known_from = min(series.steps[0] for series in metrics.values())
    # A step logs under the number of steps before it, evaluations and rounds under the number of steps so far.
    trained = max(series.steps[-1] + (name == _TOKENS) for name, series in metrics.items())
    starts = [*(begin and max(begin, known_from) for begin in begins), trained]
    times = _step_seconds(metrics)
    seconds = [
        {
            "sampling": _finite(own.get("rollout/seconds")),
            "judging": _finite(own.get("judge/seconds")),
            "training": _training_seconds(times, starts[n], starts[n + 1]),
        }
        for n, own in enumerate(values)
    ]
    if metrics["round"].times is not None and one_process:
        for n, (at, following) in enumerate(itertools.pairwise(logged)):
            trained_s = _training_seconds(times, at.step, following.step)
            known = trained_s + seconds[n + 1]["sampling"] + seconds[n + 1]["judging"]
            seconds[n]["other"] = max(0.0, following.time - at.time - known)
    return [
        RoundRow(at.index, begin, own, parts)
        for at, begin, own, parts in zip(logged, begins, values, seconds, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _LoggedRound:
    """Where a round's metrics are: at a step, ``later`` rounds before the last one that was logged there."""

    index: int
    step: int
    later: int
    time: float


def _logged_rounds(series: Series) -> list[_LoggedRound]:
    later = Counter(value.step for value in series.all_values())
    found: dict[int, _LoggedRound] = {}
    for step, index, time in series.all_values():
        later[step] -= 1
        found[int(index)] = _LoggedRound(int(index), step, later[step], time)
    return [found[index] for index in sorted(found)]


def _round_values(metrics: Mapping[str, Series], logged: Sequence[_LoggedRound]) -> list[dict[str, float]]:
    """Return the metrics of each round by name.

    A round that keeps nothing takes no optimizer step, and the next one is logged at the same: the last value there is of the
    last round, the one before it of the round before. What the first rounds at a step lack, such as metrics of the tokens that
    are kept, or of the step itself, is so taken for the last one's.
    """
    found: list[dict[str, float]] = [{} for _ in logged]
    for name, series in metrics.items():
        here = defaultdict(list)
        for step, value, _ in series.all_values():
            here[step].append(value)
        for own, at in zip(found, logged, strict=True):
            if at.later < len(here.get(at.step, ())):
                own[name] = here[at.step][-1 - at.later]
    return found


def _finite(value: float | None) -> float:
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
    return sum(logged) / len(logged) * max(0, end - first) if logged else 0.0
