"""What is said when a run is resumed: where it goes on to write, and which settings are others than the checkpoint's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lit_tpgrpo.yaml_files import read_yaml

_SHOWN = 8
_CLASS = ".class_path"
# Chosen for each run, or about the resuming itself.
_OF_THE_RUN = ("ckpt_path", "weights_only", "trainer.logger.version", "config")


def resume_line(checkpoint: str, run: Path | None, settings: Mapping[str, Any], folder: Path | None) -> str:
    """Return the line about a run that is resumed.

    Args:
        checkpoint: path of the checkpoint.
        run: folder of the checkpoint's run, which holds its ``config.yaml``; None if it is not known.
        settings: of the run that goes on, as the parser writes them.
        folder: where it writes; None if only its logger knows.
    """
    line = f"resuming {checkpoint}" + (f", writing to {folder}" if folder is not None else "")
    before = {} if run is None else _read(run / "config.yaml")
    if not before:
        return f"{line}; the settings of the run before are not beside it"
    changes = list(_changes(dict(_flat(before)), dict(_flat(settings))))
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return line + (f"; changed settings: {', '.join(changes[:_SHOWN])}{more}" if changes else "")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except (OSError, ValueError, yaml.YAMLError):  # it only serves the comparison
        return {}
    return content if isinstance(content, dict) else {}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``key before -> now`` for each setting that differs; a class that was replaced stands for its arguments."""
    replaced = [key for key in before.keys() & now.keys() if before[key] != now[key] and key.endswith(_CLASS)]
    for key in sorted(before.keys() | now.keys()):
        inside = any(key != other and key.startswith(other.removesuffix(_CLASS) + ".") for other in replaced)
        if before.get(key) != now.get(key) and not inside:
            yield f"{key.removesuffix(_CLASS)} {_shown(before.get(key))} -> {_shown(now.get(key))}"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by their keys as in options, without ``init_args``; items of a list by their numbers."""
    inner = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else None
    if key in _OF_THE_RUN:
        return
    if not inner:
        yield key, value
        return
    for name, item in inner.items():
        name = "" if name == "init_args" else f".{name}"
        yield from _flat(item, f"{key}{name}".lstrip("."))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).rpartition(".")[2] if isinstance(value, str) and value.startswith("lit_tpgrpo.") else str(value)
