"""The settings of a run for its loggers, read from its objects, so that runs without a config have them, too."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.redaction import redacted
from lit_tpgrpo.rollout.hooks import RolloutSource

_PARTS = (
    *("engine", "format", "verifier", "judge", "credit", "group_filter", "batch_stage", "correction"),
    *("sampling", "eval_sampling", "dynamic_sampling", "adapter"),
)
_PLAIN = (bool, int, float, str)
_LISTED = 16  # items at most: longer lists are data
_LEFT_OUT = ("store_dir", "name", "prepare_data_per_node", "allow_zero_length_dataloader_with_multiple_devices")


def run_settings(trainer: L.Trainer) -> dict[str, bool | int | float | str]:
    """Return plain values under ``model.``, ``optimizer.``, ``lr_scheduler.``, ``data.`` and ``trainer.``; lists as text.

    Settings that are None are left out.
    """
    module, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
    settings = _plain("model", {k: v for k, v in module.hparams.items() if not k.startswith("_")})
    settings |= _part("model.adapter", getattr(module, "adapter", None))
    settings |= _part("model.loss", getattr(module, "token_loss", None))
    for optimizer in trainer.optimizers[:1]:
        settings |= {"optimizer": type(optimizer).__name__} | _plain("optimizer", optimizer.defaults)
    for config in trainer.lr_scheduler_configs[:1]:
        settings |= _schedule("lr_scheduler", config.scheduler, getattr(module, "_make_scheduler", None))
    if data is not None:
        settings |= _plain(
            "data", {k: v for k, v in vars(data).items() if not k.startswith("_") and k not in (*_PARTS, "evidence")}
        )
        settings |= _plain("data.chat_template_kwargs", getattr(data, "chat_template_kwargs", {}))
        for name in _PARTS:
            settings |= _part(f"data.{name}", getattr(data, name, None))
        for i, provider in enumerate(getattr(data, "evidence", ())):
            settings |= _part(f"data.evidence.{i}", provider)
        for name, given in getattr(getattr(data, "rewards", None), "terms", {}).items():
            settings |= _part(f"data.rewards.{name}", given.term) | {f"data.rewards.{name}.weight": given.weight}
        if not hasattr(keep := getattr(data, "keep", None), "__name__"):  # a function is among the plain ones
            settings |= _part("data.keep", keep)
        for split, source in getattr(data, "sources", {}).items():
            for name, part in (source if isinstance(source, Mapping) else {"": source}).items():
                settings |= _part(f"data.{split}.{name}".rstrip("."), part)
    return settings | _plain(
        "trainer", {k: getattr(trainer, k) for k in ("precision", "world_size", "max_steps", "max_epochs")}
    )


@rank_zero_only
def log_run_settings(trainer: L.Trainer) -> None:
    """Send the settings to all loggers. TensorBoard's HPARAMS page shows them beside the held-out accuracy."""
    settings = run_settings(trainer)
    data = getattr(trainer, "datamodule", None)
    sets = data.heldout_sampling("val") if isinstance(data, RolloutSource) else {}
    measured = [f"eval/{name}/avg@{s.samples}".replace("//", "/") for name, s in sets.items()]
    measured += ["eval/average"] if any(sets) else []
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            _to_tensorboard(logger, settings, measured)
        elif isinstance(logger, MLFlowLogger):
            logger.log_hyperparams(_new_to_mlflow(logger, settings))
        else:
            logger.log_hyperparams(settings)


def _new_to_mlflow(logger: MLFlowLogger, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that MLflow does not have yet; it refuses to change a logged parameter."""
    held = logger.experiment.get_run(logger.run_id).data.params
    changed = {name: value for name, value in settings.items() if name in held and held[name] != str(value)}
    if changed:
        shown = ", ".join(f"{name} {held[name]} (now {value})" for name, value in sorted(changed.items()))
        rank_zero_warn(f"MLflow keeps the first value of each setting of its run: {shown}")
    return {name: value for name, value in settings.items() if name not in held}


def _to_tensorboard(logger: TensorBoardLogger, settings: dict[str, Any], metrics: list[str]) -> None:
    """Log hyperparameters without Lightning's placeholder ``hp_metric`` -1."""
    from torch.utils.tensorboard.summary import hparams

    logger.hparams.update(settings)  # for hparams.yaml
    for summary in hparams(settings, dict.fromkeys(metrics, 0.0)):  # the values are those logged under these names
        logger.experiment._get_file_writer().add_summary(summary)


def _schedule(key: str, scheduler: Any, factory: Any) -> dict[str, Any]:
    """Return the class and arguments of a schedule, and those of the schedules in a sequence.

    The parser's factory is a ``functools.partial`` with the arguments; another's are read from the schedule's attributes.
    """
    names = inspect.signature(type(scheduler)).parameters
    given = dict(getattr(factory, "keywords", None) or {n: v for n, v in vars(scheduler).items() if n in names})
    given = {k: v for k, v in given.items() if k not in ("optimizer", "last_epoch")}
    settings = {key: type(scheduler).__name__} | _plain(key, given)
    settings |= {f"{key}.name": given["name"]} if "name" in given else {}  # of a data source or logger it says nothing
    for name, value in given.items():
        settings |= _plain(f"{key}.{name}", value) if isinstance(value, Mapping) else {}
    inner = getattr(scheduler, "_schedulers", [])
    factories = given.get("schedulers") or [None] * len(inner)
    for at, (part, built_by) in enumerate(zip(inner, factories, strict=True)):
        settings |= _schedule(f"{key}.{at}", part, built_by)
    return settings


def _part(key: str, part: Any) -> dict[str, Any]:
    if part is None:
        return {}
    given = (
        dataclasses.asdict(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else settings_of(part)
    )
    return {key: type(part).__name__} | _component(key, given)


def _component(key: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain settings of a component, and those of components inside it, which have the key ``class``."""
    settings = _plain(key, {k: v for k, v in given.items() if k not in ("class", *_LEFT_OUT)})
    for name, value in given.items():
        if isinstance(value, Mapping) and "class" in value:
            inside = f"{key}.{name}"
            settings |= {inside: str(value["class"]).rpartition(".")[2]} | _component(inside, value)
    return settings


def _plain(key: str, values: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    settings: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if name in _LEFT_OUT:
            continue
        if isinstance(value, _PLAIN):
            settings[f"{key}.{name}"] = redacted(value) if isinstance(value, str) else value
        elif isinstance(value, (tuple, list)) and len(value) <= _LISTED and all(isinstance(v, _PLAIN) for v in value):
            settings[f"{key}.{name}"] = redacted(str(list(value)))  # betas; loggers take no lists
        elif callable(value) and hasattr(value, "__name__"):
            settings[f"{key}.{name}"] = value.__name__
    return settings
