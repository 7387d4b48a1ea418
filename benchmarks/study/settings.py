"""Settings of the study: arms, budgets and the configs of every run, read from ``arms.yaml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import content_hash
from lit_tpgrpo.yaml_files import read_yaml

ROOT = Path(__file__).parents[2]
ARMS = Path(__file__).with_name("arms.yaml")
GROUPS = ("baseline", "paper", "ablation", "noise", "rival", "ours")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")
Overlay = str | Mapping[str, Any]
"""Path of a config, relative to the checkout, or a config's content."""


@dataclass(frozen=True)
class Arm:
    """One method of the study.

    Attributes:
        name: of its files; letters, digits and ``_.+-``.
        title: in tables and pictures.
        group: one of ``GROUPS``.
        overlays: configs after those of every run.
        options: settings after all configs, by key as on the command line, e.g. ``data.credit.alpha``.
    """

    name: str
    title: str
    group: str
    overlays: tuple[Overlay, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """How long runs train, and the seeds: ``short`` or ``full``. Overlays and options come before the arm's."""

    name: str
    seeds: tuple[int, ...]
    overlays: tuple[Overlay, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Arms in the order of the tables, all on one budget.

    Attributes:
        configs: of every run; the budget's and the arm's overlays come after them.
        budget: steps, evaluations and seeds.
        reference: name of the arm that the rest is compared with.
        arms: in the order of the tables.
        tuned: config with the result of a sweep, after ``configs``. A sweep itself runs without it, so that applying its
            result leaves its own runs of use.
    """

    configs: tuple[str, ...]
    budget: Budget
    reference: str
    arms: tuple[Arm, ...]
    tuned: str | None = None

    def overlays(self, arm: Arm) -> list[Overlay]:
        """Return all configs of an arm's runs, in the order in which they are applied."""
        tuned = () if self.tuned is None else (self.tuned,)
        return [*self.configs, *tuned, *self.budget.overlays, *arm.overlays]

    def options(self, arm: Arm) -> dict[str, Any]:
        """Return the settings of an arm's runs that come after all configs, by key."""
        return {**self.budget.options, **arm.options}

    def parts(self, arm: Arm) -> dict[str, Any]:
        """Return what an arm's runs are made with, except the seed: all configs merged, by section, and each option by key.

        Merged, so that a line of a config that a later one replaces (as the list of callbacks) is no setting of the runs.
        """
        merged = functools.reduce(_merged, map(_content, self.overlays(arm)), {})
        return {name: content for name, content in merged.items() if name != "seed_everything"} | self.options(arm)

    def max_steps(self, arm: Arm) -> int | None:
        """Return the optimizer steps that an arm's runs are to take, None if no setting says so."""
        parts = self.parts(arm)
        return parts.get("trainer.max_steps", parts.get("trainer", {}).get("max_steps"))

    def hashes(self, arm: Arm) -> dict[str, str]:
        """Return a hash of each part of the settings: results are of the same settings where all are equal."""
        return {name: content_hash(content) for name, content in self.parts(arm).items()}

    def arm(self, name: str) -> Arm:
        """Return an arm by name.

        Raises:
            ConfigError: there is none of that name.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ConfigError(f"there is no arm {name!r}; there are {', '.join(a.name for a in self.arms)}")

    def select(self, names: Sequence[str] | None, seeds: Sequence[int] | None) -> Study:
        """Return the study with these arms and seeds only, None for all.

        Raises:
            ConfigError: there is no such arm, or a seed is given twice.
        """
        chosen = self.arms if names is None else tuple(self.arm(name) for name in dict.fromkeys(names))
        if seeds is not None and len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds must differ, got {', '.join(map(str, seeds))}")
        budget = self.budget if seeds is None else replace(self.budget, seeds=tuple(seeds))
        return replace(self, arms=chosen, budget=budget)


def _content(overlay: Overlay) -> Mapping[str, Any]:
    """Return the content of a config.

    Raises:
        ConfigError: it cannot be read, or holds no settings.
    """
    content = overlay if isinstance(overlay, Mapping) else load(ROOT / overlay)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{overlay}: expected settings by key, got {type(content).__name__}")
    return content


def _merged(before: Any, after: Any) -> Any:
    """Return settings with later ones over them: mappings key by key, all else (lists too) replaced."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return after
    return {**before, **{key: _merged(before.get(key), value) for key, value in after.items()}}


def load(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: there is no such file, or it is not YAML.
    """
    try:
        return read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def read_study(path: Path = ARMS, budget: str = "short") -> Study:
    """Read a study from a file like ``arms.yaml``.

    Raises:
        ConfigError: a part is missing, unknown or of another kind; the message names it.
    """
    content = load(path)
    keys = {"configs", "reference", "budgets", "arms"}
    if not isinstance(content, dict) or not keys <= set(content) <= {*keys, "tuned"}:
        got = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"{path}: expected the keys {', '.join(sorted(keys))} and possibly tuned, got {got}")
    if budget not in content["budgets"]:
        raise ConfigError(f"{path}: there is no budget {budget!r}; there are {', '.join(content['budgets'])}")
    chosen = _fields(path, f"budget {budget}", content["budgets"][budget], required=("seeds",))
    seeds = tuple(chosen.pop("seeds"))
    arms = []
    for row in content["arms"]:
        fields = _fields(path, f"arm {row.get('name')!r}", row, required=("name", "title", "group"))
        arms.append(Arm(**fields))
    configs, reference = tuple(content["configs"]), content["reference"]
    study = Study(configs, Budget(budget, seeds, **chosen), reference, tuple(arms), content.get("tuned"))
    _check(path, study)
    return study


def _fields(path: Path, what: str, row: Any, required: Sequence[str]) -> dict[str, Any]:
    known = {*required, "overlays", "options"}
    if not isinstance(row, dict) or not set(required) <= set(row) <= known:
        raise ConfigError(
            f"{path}: {what} needs {', '.join(required)}, and may have overlays (a list of configs) and options (settings by "
            f"key); got {', '.join(map(str, row)) if isinstance(row, dict) else row!r}"
        )
    overlays, options = row.get("overlays") or [], row.get("options") or {}
    if not isinstance(overlays, list) or not isinstance(options, dict):
        raise ConfigError(f"{path}: {what}: overlays is a list of configs and options are settings by key")
    return row | {"overlays": tuple(overlays), "options": options}


def _check(path: Path, study: Study) -> None:
    names = [arm.name for arm in study.arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: arms must have different names; {', '.join(twice)} occurs twice")
    for arm in study.arms:
        if not arm.name or not set(arm.name) <= _NAME:
            raise ConfigError(f"{path}: an arm's name has letters, digits and _.+- only, got {arm.name!r}")
        if arm.group not in GROUPS:
            raise ConfigError(
                f"{path}: arm {arm.name}: expected one of the groups {', '.join(GROUPS)}, got {arm.group!r}"
            )
    study.arm(study.reference)
