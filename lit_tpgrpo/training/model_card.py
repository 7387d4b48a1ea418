"""The model card of a trained policy: how it was trained, without paths of this machine and without keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from huggingface_hub import ModelCardData

_PACKAGES = ("torch", "transformers", "lightning", "peft")


@dataclass(frozen=True)
class RunCard:
    """Contents of a run's model card; paths of this machine are left out.

    Args:
        base_model: what was trained.
        steps: optimizer steps taken.
        settings: of the module, by name; plain and public ones are shown.
        run: the run's whole configuration as YAML, or nothing.
        metrics: by name.
    """

    base_model: str
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """Render the card as the folder's README.md."""
        on_hub = not _is_path(self.base_model)
        data = ModelCardData(
            library_name="transformers",
            pipeline_tag="text-generation",
            base_model=self.base_model if on_hub else None,
            tags=["tp-grpo", "grpo", "process-reward", "reinforcement-learning"],
        )
        settings = _flattened(self.settings).items()
        rows = [f"| {name} | {value} |" for name, value in settings if _is_shown(name, value)]
        parts = [
            f"---\n{data.to_yaml()}\n---",
            "# A policy trained with TP-GRPO",
            f"{'`' + self.base_model + '`' if on_hub else 'A local model'}, trained by "
            f"[TP-GRPO](https://arxiv.org/abs/2507.23317) with lit-tpgrpo for {self.steps} optimizer steps.",
            "## Settings\n\n| setting | value |\n|---|---|\n" + "\n".join(rows),
        ]
        if self.metrics:
            metric_rows = [f"| {name} | {value:.4f} |" for name, value in sorted(self.metrics.items())]
            parts.append("## Metrics\n\n| metric | value |\n|---|---|\n" + "\n".join(metric_rows))
        if self.run:
            shown = "\n".join(line for line in self.run.splitlines() if not _is_path(line.partition(": ")[2]))
            parts.append(f"## The run's configuration\n\n```yaml\n{shown}\n```")
        parts.append("Made with " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES) + ".")
        return "\n\n".join(parts) + "\n"


def _flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name the class of a part and its arguments beside the other settings: ``loss``, ``loss.clip_low``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and "class_path" in value:
            flat[name] = str(value["class_path"]).rpartition(".")[2]
            flat |= {f"{name}.{argument}": v for argument, v in (value.get("init_args") or {}).items()}
        else:
            flat[name] = value
    return flat


def _is_shown(name: str, value: Any) -> bool:
    return isinstance(value, (bool, int, float, str)) and not name.startswith("_") and not _is_path(value)


def _is_path(value: Any) -> bool:
    """Tell whether it names a file or folder of this machine: a hub name has one slash and nothing before its owner."""
    text = str(value).strip("'\" -")
    there = "/" in text and os.path.exists(text)
    return there or text.startswith(("/", "~", ".", "embedded:", "in-memory:")) or text.count("/") > 1
