"""What a run left on disk, read for its report: settings, metrics, rounds and solutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.report.files import predictions, run_solutions
from lit_tpgrpo.report.metrics import CSV, EVENTS, RoundRow, Series, read_metrics, rounds
from lit_tpgrpo.report.solutions import RECORDED, ShownSolution
from lit_tpgrpo.yaml_files import read_yaml, yaml_fault

_MARKS = ("config.yaml", "hparams.yaml", CSV, RECORDED, EVENTS, "rounds/round_*", "evaluation/*")
"""What tells a run's folder from others."""


@dataclass(frozen=True)
class RunData:
    """One run, or one file of predictions, as far as it is on disk.

    Attributes:
        path: of the folder or file.
        label: the experiment that the user named, "" for none.
        settings: by dotted key.
        metrics: by name.
        rounds: in order.
        solutions: in the order of rounds, read from their file one by one.
        notes: what the reader of the report has to know: files that could not be read, metrics that are elsewhere.
    """

    path: Path
    label: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Series] = field(default_factory=dict)
    rounds: tuple[RoundRow, ...] = ()
    solutions: Sequence[ShownSolution] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_predictions(self) -> bool:
        """Whether this is a file that ``predict`` wrote."""
        return not self.path.is_dir()

    @property
    def steps(self) -> int:
        """Optimizer steps whose metrics were logged."""
        loss = self.metrics.get("train/loss")
        return loss.steps[-1] + 1 if loss is not None else 0

    def setting(self, *keys: str) -> Any:
        """Return the first of these settings that is given, None if none is."""
        return next((self.settings[key] for key in keys if self.settings.get(key) is not None), None)


def read_run(path: Path, label: str = "") -> RunData:
    """Read a run's folder, or a file that ``predict`` wrote. A run that goes on, or was killed, is read as far as it is.

    Args:
        path: of the folder or file.
        label: the experiment that the run belongs to.

    Raises:
        InputError: there is nothing at the path; it is neither a run nor predictions; nothing was written yet; or a file cannot
            be read.
    """
    try:
        if path.is_dir():
            return _folder(path, label)
        if path.exists():
            shown, notes = predictions(path)
            return RunData(path, label, solutions=shown, notes=tuple(notes))
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read ({error.strerror}); make it readable") from error
    raise InputError(f"{path}: there is no such run; give a run's folder, e.g. runs/quickstart/version_0")


def _folder(path: Path, label: str) -> RunData:
    if not any(any(path.glob(mark)) for mark in _MARKS):
        inner = sorted({p.parent for mark in ("config.yaml", EVENTS, CSV) for p in path.glob(f"*/{mark}")})
        held = f"it holds {len(inner)} run{'s' * (len(inner) > 1)}: give "
        hint = held + ", ".join(map(str, inner[:3])) + ", ..." * (len(inner) > 3) if inner else "give a run's folder"
        raise InputError(f"{path} is no run: expected config.yaml, TensorBoard events or {CSV} in it; {hint}")
    settings, notes = _settings(path)
    metrics = read_metrics(path)
    table = rounds(metrics, one_process=len(list(path.glob(EVENTS))) <= 1)
    store = settings.get("data.store_dir")
    shown, more = run_solutions(path, Path(store) if isinstance(store, str) else path / "rounds")
    if not metrics:
        if not shown:
            raise InputError(
                f"{path} is a run without any metrics or solutions yet; wait for its first round, or give another run"
            )
        notes += ["no curves: the run has neither TensorBoard events nor metrics.csv here"]
    return RunData(path, label, settings, metrics, tuple(table), shown, (*notes, *more))


def _settings(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of config.yaml, which the command line writes, else of the logger's hparams.yaml."""
    for name in ("config.yaml", "hparams.yaml"):
        file = path / name
        if not file.is_file():
            continue
        try:
            content = read_yaml(file)
        except yaml.YAMLError as error:
            return {}, [f"no settings: {yaml_fault(file, error)}"]
        except UnicodeDecodeError:
            return {}, [f"no settings: {file} is not UTF-8"]
        return flat(content), []
    return {}, ["no settings: the run has neither config.yaml nor hparams.yaml"]


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key, as options are written: without ``init_args``; ``class_path`` is the part's own.

    >>> flat({"data": {"credit": {"class_path": "a.B", "init_args": {"alpha": 1.0}}}, "stop": [], "rewards": {}})
    {'data.credit': 'a.B', 'data.credit.alpha': 1.0, 'stop': [], 'rewards': {}}
    """
    if isinstance(content, list) and any(isinstance(item, dict) for item in content):
        names = [_class_name(item) or str(n) for n, item in enumerate(content)]
        content = dict(
            zip([n if names.count(n) == 1 else f"{n}#{i}" for i, n in enumerate(names)], content, strict=True)
        )
    if not isinstance(content, dict) or not content:
        return {prefix: content} if prefix else {}
    settings: dict[str, Any] = {}
    for key, value in content.items():
        if key == "class_path" and prefix:
            settings[prefix] = value
        elif key == "init_args":
            settings |= flat(value, prefix) if value else {}
        else:
            settings |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return settings


def _class_name(item: Any) -> str:
    path = item.get("class_path") if isinstance(item, dict) else None
    return path.rsplit(".", 1)[-1] if isinstance(path, str) else ""
