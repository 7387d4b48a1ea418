"""The tables of the page: an experiment a line, and a round a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lit_tpgrpo.report.experiments import Experiment
from lit_tpgrpo.report.figures import heldout_metrics
from lit_tpgrpo.report.metrics import RoundRow
from lit_tpgrpo.report.runs import RunData


def _share(value: float) -> str:
    return f"{value:.1%}"


def _plain(value: float) -> str:
    return f"{value:.3f}"


_ROUND_CELLS: tuple[tuple[str, str, tuple[str, ...], Callable[[float], str]], ...] = (
    ("accuracy", "correct solutions / decided ones", ("rollout/accuracy",), _plain),
    ("reward", "mean reward", ("reward/total", "rollout/reward"), lambda v: f"{v:+z.3f}"),
    ("thoughts", "merged thoughts of a solution", ("judge/thoughts_per_solution",), lambda v: f"{v:.2f}"),
    ("wrong thoughts", "INCORRECT and MATCHED / labelled", ("judge/wrong_thought_share",), _share),
    ("abstained", "solutions without labels", ("judge/abstained_share",), _share),
    ("kept", "solutions trained on / all", ("credit/kept_share",), _share),
    ("variance", "of token advantages", ("credit/advantage_variance",), _plain),
    ("tokens", "mean length", ("rollout/length_mean",), lambda v: f"{v:.0f}"),
)
ROUND_COLUMNS = (
    ("round", "index"),
    ("step", "optimizer step at which training on it begins"),
    *((title, what) for title, what, _, _ in _ROUND_CELLS),
    *((f"{stage}, s", "seconds") for stage in ("sampling", "judging", "training")),
)
"""Title and explanation of each column of the table of rounds."""


def round_cells(run: RunData) -> list[list[str]]:
    """Return the table of a run's rounds as texts."""
    return [_cells(row) for row in run.rounds]


def _cells(row: RoundRow) -> list[str]:
    found = [next((row.metrics[n] for n in names if n in row.metrics), None) for _, _, names, _ in _ROUND_CELLS]
    cells = ["" if v is None else form(v) for v, (_, _, _, form) in zip(found, _ROUND_CELLS, strict=True)]
    seconds = [row.seconds.get(stage, 0.0) for stage in ("sampling", "judging", "training")]
    return [str(row.index), str(row.step), *cells, *(f"{s:.1f}" if s else "" for s in seconds)]


def overview(groups: Sequence[Experiment]) -> list[dict[str, str]]:
    """Return a line for each experiment: runs, progress, held-out accuracy, the rounds' accuracy, time."""
    heldout = next(iter(heldout_metrics(groups)), "")
    return [_line(group, heldout) for group in groups]


def _line(group: Experiment, heldout: str) -> dict[str, str]:
    runs = group.runs
    seeds = [str(seed) for seed in group.seeds if seed is not None]
    several = [f"{len(runs)} runs"] if len(runs) > 1 else []
    seeded = [f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"] if seeds else []
    return {
        "runs": ", ".join([*several, *seeded]),
        "progress": _range([_progress(run) for run in runs]),
        "rounds": _range([str(len(run.rounds)) for run in runs if run.rounds]),
        "metric": heldout.removeprefix("eval/"),
        "heldout": _change(group, heldout),
        "accuracy": _change(group, "rollout/accuracy"),
        "solutions": f"{sum(int(row.metrics.get('rollout/solutions', 0)) for run in runs for row in run.rounds) or ''}",
        "time": _range([_duration(run) for run in runs if run.metrics]),
    }


def _progress(run: RunData) -> str:
    """Return optimizer steps of those that the settings ask for: a run that goes on, or was killed, has fewer."""
    limit = run.setting("trainer.max_steps")
    asked = f" of {limit}" if isinstance(limit, int) and limit > 0 else ""
    return f"{run.steps}{asked}" if run.metrics else ""


def _change(group: Experiment, metric: str) -> str:
    """Return a metric's first and last value, with the range over several runs."""
    series = group.series(metric)
    if not series:
        return ""
    ends = [[s.values[at] for s in series] for at in (0, -1)]
    first, last = (sum(values) / len(values) for values in ends)
    spread = f" ({min(ends[1]):.3f} to {max(ends[1]):.3f})" if len(series) > 1 else ""
    return f"{first:.3f} → {last:.3f}{spread}"


def _duration(run: RunData) -> str:
    """Return the time of all stages, where a round has any: from the first round's sampling to the last step.

    Stages that overlap take less together, how much less no file says.
    """
    seconds = sum(sum(row.seconds.values()) for row in run.rounds)
    if seconds <= 0:
        return ""
    most = "" if run.setting("data.schedule") in (None, "serial") else "≤ "
    return most + (f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{seconds / 60:.1f} min")


def _range(texts: Sequence[str]) -> str:
    """Return equal texts once, different ones joined."""
    return ", ".join(dict.fromkeys(t for t in texts if t))
