"""Messages of libraries that are neither about the user's settings nor about the run: hidden, each by its text."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from transformers.utils import logging as transformers_logging

WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Checkpoints hold the weights after the step on purpose: a resumed run goes on from there.
    "Using ModelCheckpoint with manual optimization",
    # A resumed run keeps its own best checkpoints, in its own folder.
    "The dirpath has changed from",
    # A resumed run's is its own; nothing in it is overwritten, and another run's is refused.
    "Checkpoint directory .* exists and is not empty",
    # Time limits are the process's, given each time.
    r"Be aware that when using `ckpt_path`, callbacks used to create .* callbacks: \['Timer'\]",
    # Of callbacks with a device among their defaults, when the parser writes the settings down.
    r"\s*Unable to serialize instance cpu",
    # There are no validation batches outside of evaluation; what predict_step returns is ours to say.
    r"Total length of `list` across ranks is zero",
    "predict returned None if it was on purpose",
    # avg@4 is avg4 there.
    "MLFlow only allows .* special characters in metric name",
)
LOGGED = (
    "TPU available: False, using: 0 TPU cores",
    "Tip: For seamless cloud",
    "was raised with message:",
    "Failed to load CPU gemm_4bit_forward from kernels-community",
)
BAR_DELAY_S = 2.0


def hide_notices() -> None:
    """Hide these messages, and the bar of loading weights where that takes less than two seconds."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    rank_zero = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
    for name in (*rank_zero, "bitsandbytes.backends.cpu.ops"):
        logger = logging.getLogger(name)
        if _is_news not in logger.filters:
            logger.addFilter(_is_news)
    transformers_logging.set_tqdm_hook(_late_bar)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in LOGGED)


def _late_bar(factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return factory(*args, **({"delay": BAR_DELAY_S} | kwargs))


hide_notices()  # when imported, for scripts of the user's own
