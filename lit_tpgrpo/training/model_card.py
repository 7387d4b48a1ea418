"""The model card of a trained policy: how it was trained, without paths of this machine and without keys."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from lit_tpgrpo.redaction import redacted
from lit_tpgrpo.yaml_files import UniqueKeys, check_yaml

_PACKAGES = ("torch", "transformers", "lightning", "peft")
_WORD = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")
_SECRET_NAME = re.compile(
    "(^| )(secrets?|password|passwd|passphrase|credentials?|auth|authorization|cookies?|apikeys?"
    "|(api|access|private) keys?)( |$)"
)
_MAYBE_SECRET_NAME = re.compile("(^| )(key|token)$")  # or a special token, or a number of tokens
_HIDDEN = object()


@dataclass(frozen=True)
class RunCard:
    """Contents of a run's model card; paths of this machine and what may be a key or a password are left out.

    Args:
        base_model: what was trained.
        steps: optimizer steps taken.
        settings: of the module, by name; plain and public ones are shown.
        run: the run's whole configuration as YAML, or nothing; one that cannot be read is not shown.
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
        if shown := _public_yaml(self.run):
            parts.append(f"## The run's configuration\n\n```yaml\n{shown}```")
        parts.append("Made with " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES) + ".")
        return redacted("\n\n".join(parts) + "\n")


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
    plain = isinstance(value, (bool, int, float, str)) and not name.startswith("_")
    return plain and not _is_path(value) and not _is_secret(name.rpartition(".")[2], value)


def _is_path(value: Any) -> bool:
    """Tell whether it names a file or folder of this machine: a hub name has one slash and nothing before its owner."""
    text = str(value).strip("'\" -")
    there = "/" in text and os.path.exists(text)
    return there or text.startswith(("/", "~", ".", "embedded:", "in-memory:")) or text.count("/") > 1


def _public_yaml(text: str) -> str:
    """Return a configuration without what must not be published; "" if it cannot be read or nothing is left."""
    try:
        check_yaml(text)
        public = _public(yaml.load(text, UniqueKeys))  # a SafeLoader
    except (yaml.YAMLError, ValueError):
        return ""
    return yaml.safe_dump(public, sort_keys=False, allow_unicode=True, width=120) if isinstance(public, dict) else ""


def _public(value: Any) -> Any:
    """Return nested values without paths and secrets; ``_HIDDEN`` if nothing is left."""
    if isinstance(value, dict):
        inner = {k: _public(v) for k, v in value.items() if not _is_path(k) and not _is_secret(str(k), v)}
        kept: Any = {k: v for k, v in inner.items() if v is not _HIDDEN}
    elif isinstance(value, list):
        kept = [v for v in map(_public, value) if v is not _HIDDEN]
    else:
        return _HIDDEN if isinstance(value, str) and _is_path(value) else value
    return kept if kept or not value else _HIDDEN


def _is_secret(name: str, value: Any) -> bool:
    """Tell by its name whether a value may be a key or password: not that of ``api_key_env``, ``max_tokens``, ``eos_token``."""
    words = " ".join(_WORD.findall(name)).lower()
    if value is None or isinstance(value, bool) or words.endswith(" env"):
        return False
    if _SECRET_NAME.search(words):
        return True
    special = isinstance(value, str) and value.startswith(("<", "["))
    part = isinstance(value, dict) and "class_path" in value
    return bool(_MAYBE_SECRET_NAME.search(words)) and not isinstance(value, int | float) and not special and not part
