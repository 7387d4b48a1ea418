"""A sweep of settings on the reference arm alone, with seeds that the study does not use."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.study.report import EMPTY, gather_runs, has_content, markdown
from benchmarks.study.results import Results
from benchmarks.study.settings import Arm, Study, load
from benchmarks.study.statistics import area
from benchmarks.study.summary import ArmRuns, check_problems
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.rollout.store import write_whole

SWEEP = Path(__file__).with_name("sweep.yaml")


@dataclass(frozen=True)
class Sweep:
    """A study whose arms are the combinations of a grid, and the settings of each by its arm's name."""

    study: Study
    points: Mapping[str, Mapping[str, Any]]


def read_sweep(path: Path, study: Study) -> Sweep:
    """Read a grid and return its combinations as a study, in the order of the file (the last key varies fastest).

    They are run without the study's ``tuned``, which holds the result of a sweep.

    Raises:
        ConfigError: the file has other keys, or a seed is one of the study's.
    """
    content = load(path)
    if not isinstance(content, dict) or set(content) != {"arm", "seeds", "grid"}:
        raise ConfigError(f"{path}: expected the keys arm, seeds and grid (keys of settings with lists of values)")
    if shared := sorted(set(content["seeds"]) & set(study.budget.seeds)):
        raise ConfigError(
            f"{path}: seeds {', '.join(map(str, shared))} are the study's, which tuning must not see; take others"
        )
    if empty := [key for key, values in content["grid"].items() if not isinstance(values, list) or not values]:
        raise ConfigError(f"{path}: expected a list of values for {', '.join(empty)}")
    base, points, arms = study.arm(content["arm"]), {}, []
    for values in itertools.product(*content["grid"].values()):
        point = dict(zip(content["grid"], values, strict=True))
        name = "-".join(f"{key.rpartition('.')[2]}_{value}" for key, value in point.items()).replace(" ", "")
        points[name] = point
        arms.append(Arm(name, name, base.group, base.overlays, {**base.options, **point}))
    budget = replace(study.budget, seeds=tuple(content["seeds"]))
    return Sweep(replace(study, arms=tuple(arms), budget=budget, reference=arms[0].name, tuned=None), points)


def write_sweep(sweep: Sweep, results: Results, out: Path) -> list[Path]:
    """Write ``sweep.md``: accuracy at the end and area of each combination."""
    arms, notes = gather_runs(sweep.study, results)
    check_problems(arms)
    if not arms and has_content(out / "sweep.md"):
        return []
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"# Sweep on one arm, {sweep.study.budget.name} budget", ""]
    lines += [sweep_table(sweep, arms) if arms else EMPTY, ""]
    lines += (
        ["Held-out accuracy by seed. The row with the largest mean accuracy at the end is in bold.", ""] if arms else []
    )
    lines += [f"- {note}" for note in notes] + ([""] if notes else [])
    write_whole(out / "sweep.md", "\n".join(lines))
    return [out / "sweep.md"]


def sweep_table(sweep: Sweep, arms: list[ArmRuns]) -> str:
    """Return the table, a row a combination."""
    seeds = sweep.study.budget.seeds
    rows, best = [], max(arms, key=lambda runs: float(runs.final(runs.seeds).mean()))
    for runs in arms:
        curves = runs.curves(runs.seeds)
        areas = [area(x, y) for x, y in zip(curves.solutions, curves.accuracy, strict=True)]
        final = {seed: f"{runs.final([seed]).mean():.3f}" for seed in runs.seeds}
        mean = f"{runs.final(runs.seeds).mean():.3f}"
        cells = [*map(str, sweep.points[runs.arm.name].values()), *(final.get(seed, "–") for seed in seeds)]
        cells += [
            mean,
            f"{sum(areas) / len(areas):.3f}",
            f"{runs.column('sampled_tokens', runs.seeds)[:, -1].mean():,.0f}",
        ]
        rows.append([f"**{cell}**" for cell in cells] if runs is best else cells)
    keys = list(next(iter(sweep.points.values())))
    return markdown([*keys, *(f"end, seed {seed}" for seed in seeds), "end", "area", "tokens"], rows)
