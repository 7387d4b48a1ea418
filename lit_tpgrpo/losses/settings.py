"""A loss as plain values, by which checkpoints record it, and back."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from lit_tpgrpo.arguments import accepted
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses.base import TokenLoss

_PLAIN = (bool, int, float, str, type(None))


def loss_settings(loss: TokenLoss) -> dict[str, Any]:
    """Return ``class_path`` and ``init_args`` of a loss; ``init_args`` is None where the arguments are not its attributes.

    A loss among the arguments, as of a loss that wraps another, is recorded likewise.
    """
    names = [n for n in inspect.signature(type(loss)).parameters if n not in ("args", "kwargs")]
    values = {name: getattr(loss, name) for name in names if hasattr(loss, name)}
    plain = len(values) == len(names) and all(isinstance(v, (*_PLAIN, TokenLoss)) for v in values.values())
    init_args = {n: v if isinstance(v, _PLAIN) else loss_settings(v) for n, v in values.items()} if plain else None
    path = f"{type(loss).__module__}.{type(loss).__qualname__}"
    return {"class_path": path, "init_args": init_args}


def as_loss(value: Any, where: str) -> TokenLoss:
    """Return a loss; a dict of ``class_path`` and ``init_args`` is built.

    A checkpoint's hyperparameters arrive as such a dict, so it must not import code: the class is one of this package's or of a
    module that is imported already.

    Raises:
        ConfigError: it is something else, or the class is not imported.
    """
    if not isinstance(value, Mapping):
        return accepted(value, TokenLoss, where)
    path, init_args = str(value.get("class_path")), value.get("init_args", {})
    kind = _imported_class(path)
    if kind is None or init_args is None:
        reason = "its arguments were not recorded" if kind is not None else "no loss of this name is imported"
        raise ConfigError(
            f"{where}: the loss {path} cannot be built, for {reason}; give it as an object, "
            f"loss={path.rpartition('.')[2]}(...)"
        )
    return kind(**{n: as_loss(v, f"{where}.{n}") if isinstance(v, Mapping) else v for n, v in init_args.items()})


def _imported_class(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    if module.startswith("lit_tpgrpo.losses.") and module not in sys.modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            return None
    kind = getattr(sys.modules.get(module), name, None)
    is_loss = isinstance(kind, type) and hasattr(kind, "needs_reference") and "__call__" in dir(kind)
    return kind if is_loss else None
