"""Name a run by its configs, and choose its folder: a version folder per run, and one inside it for each evaluation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.utilities import rank_zero_only

from lit_tpgrpo.rollout.run_folder import new_version
from lit_tpgrpo.yaml_files import read_yaml

_VERSIONED = ("TensorBoardLogger", "CSVLogger")
_NAME_OF = dict.fromkeys((*_VERSIONED, "WandbLogger", "CometLogger", "TrackioLogger"), "name") | {
    "MLFlowLogger": "run_name"
}
_UNNAMED = (None, "lightning_logs", "lightning-logs")
_NAMED_BY_OPTION = re.compile(r"--trainer\.logger(\.init_args)?\.(name|run_name)\b")


def loggers(settings: Namespace) -> Iterator[tuple[str, Namespace]]:
    """Yield the class name and arguments of each logger that the settings give explicitly."""
    given = settings.trainer.get("logger")
    for logger in given if isinstance(given, list) else [given]:
        if isinstance(logger, Namespace) and "class_path" in logger:
            logger.setdefault("init_args", Namespace()) if hasattr(logger, "setdefault") else None
            yield logger.class_path.rsplit(".", 1)[-1], logger.init_args


def name_run(settings: Namespace, configs: Sequence[Path], args: Sequence[str]) -> None:
    """Name the run by its configs, unless an option names it.

    If a config names its logger, the stems of the configs after it are appended to that name (``quickstart-outcome_only``);
    if none does, the name consists of all stems.
    """
    if any(_NAMED_BY_OPTION.match(arg) for arg in args):
        return
    naming = [index for index, path in enumerate(configs) if _names_logger(path)]
    for kind, init_args in loggers(settings):
        if (key := _NAME_OF.get(kind)) is None or not configs:
            continue
        given = init_args.get(key)
        unnamed = given in _UNNAMED
        stems = [path.stem for path in (configs if unnamed or not naming else configs[naming[-1] + 1 :])]
        init_args[key] = "-".join(stems if unnamed else [str(given), *stems])


def _names_logger(path: Path) -> bool:
    """Return whether a config names its logger."""
    try:
        content = read_yaml(path) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return False
    given = (content.get("trainer") or {}).get("logger")
    args = [g.get("init_args") or {} for g in (given if isinstance(given, list) else [given]) if isinstance(g, dict)]
    return any(a.get(key) not in _UNNAMED for a in args for key in ("name", "run_name"))


def reserve_version(settings: Namespace) -> Path | None:
    """Create the version folder of a training run, so that no other run gets the same; None if its logger has none.

    Raises:
        StorageError: the folder cannot be created.
    """
    for kind, init_args in loggers(settings):
        if kind not in _VERSIONED:
            return None  # the first logger decides
        rank: int = rank_zero_only.rank  # pyright: ignore[reportFunctionMemberAccess]
        if init_args.get("version") is not None or settings.trainer.get("fast_dev_run") or rank:
            return None
        save_dir = os.path.expandvars(os.path.expanduser(str(init_args.save_dir)))
        if not _is_local_file_protocol(save_dir):
            return None
        folder = new_version(Path(save_dir, init_args.get("name") or ""))
        init_args["version"] = int(folder.name.removeprefix("version_"))
        return folder
    return None


def run_of(checkpoint: str | None) -> Path | None:
    """Return the folder of the run to which a checkpoint belongs; None if there is none, or it cannot be written."""
    if checkpoint is None:
        return None
    for folder in list(Path(checkpoint).absolute().parents)[:2]:
        if (folder / "config.yaml").is_file() and os.access(folder, os.W_OK):
            return folder
    return None


def follow_run(settings: Namespace, command: str, checkpoint: str | None) -> Path:
    """Let ``validate``, ``test`` and ``predict`` log into a folder named after the command.

    It is in the folder of the checkpoint's run, or else next to the version folders under the logger's name. These commands
    take no version number of a training run.

    Returns:
        The folder, for a run without logger.
    """
    run = run_of(checkpoint)
    for kind, init_args in loggers(settings):
        if kind in _VERSIONED and init_args.get("version") is None:
            if run is not None:
                init_args["save_dir"], init_args["name"] = str(run), ""
            if kind == "TensorBoardLogger":
                init_args["version"] = command
            else:  # CSVLogger deletes the contents of its folder
                init_args["name"] = str(Path(init_args.get("name") or "", command))
    return (run or Path(settings.trainer.get("default_root_dir") or ".")) / command
