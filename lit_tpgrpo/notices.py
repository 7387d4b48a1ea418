"""Hide messages of libraries that concern neither the user's settings nor the run; each is matched by its text."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from transformers.utils import logging as transformers_logging

WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Checkpoints hold the weights after the step on purpose: a resumed run continues from there.
    "Using ModelCheckpoint with manual optimization",
    # A resumed run keeps its best checkpoints in its new folder.
    "The dirpath has changed from",
    # The folder of a resumed run belongs to that run: nothing in it is overwritten, and another run's folder is refused.
    "Checkpoint directory .* exists and is not empty",
    # A time limit holds for one process and is given each time.
    r"Be aware that when using `ckpt_path`, callbacks used to create .* callbacks: \['Timer'\]",
    # About callbacks whose defaults contain a device, when the parser saves the settings.
    r"\s*Unable to serialize instance cpu",
    # There are no validation batches outside of evaluation, and predict_step returns None on purpose.
    r"Total length of `list` across ranks is zero",
    "predict returned None if it was on purpose",
    # MLFlow shows avg@4 as avg4.
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
    """Hide these messages, and the progress bar of loading weights if that takes less than two seconds."""
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


hide_notices()  # at import, so that users' scripts get it too
